"""Judges a whole program by what it prints for what it reads. Expected outputs stay on this side."""

from collections.abc import Sequence
from dataclasses import replace

from verifiers.sandbox import values
from verifiers.sandbox.jail import Jail
from verifiers.sandbox.records import Limits, SandboxError
from verifiers.sandbox.run import Ended
from verifiers.sandbox.tally import Tally, end_of

_SHOWN = 100  # characters of a text in feedback
_LEAST_S = 0.05  # of the wall limit, that a case must have left


def judge_outputs(
    jail: Jail,
    limits: Limits,
    program: str,
    command: Sequence[str],
    cases: list[tuple[str, str]],
    tolerance: float,
    keep_going: bool,
) -> Tally:
    """Run the program once per input and hold what it prints against the expected output. All share one wall limit.

    `command` runs it, `{program}` standing for its file; when empty it is Python.
    """
    tally = Tally(total=len(cases))
    left = limits.wall_s
    for number, (given, expected) in enumerate(cases, 1):
        if left < _LEAST_S:
            tally.fail(f"case {number}: the program ran into the time limit of {limits.wall_s:g} s")
            break
        run = jail.start("command" if command else "script", replace(limits, wall_s=left), given.encode())
        try:
            run.send({"program": program, "command": list(command)})
            ending = run.wait()
            if command and run.unread:  # a Python program may write there too: then it means nothing
                raise SandboxError(run.receive()["broken"])
        except Ended:
            ending = run.wait()
        finally:
            run.close()
        left -= run.own_s
        tally.denied_syscalls += run.denied
        wrong = ""
        if ending.cause != "exit":
            wrong = end_of(run, tally)
        elif ending.code != 0:
            wrong = f"exit status {ending.code}: {_last_line(run.output(run.err))}"
        elif not same_output(expected, run.output(run.out), tolerance):
            wrong = f"printed {run.output(run.out)[:_SHOWN]!r}, expected {expected[:_SHOWN]!r}"
        tally.passed += not wrong
        if wrong:
            tally.fail(f"case {number}: {wrong}")
            if not keep_going or tally.machine:
                break
    return tally


def same_output(expected: str, printed: str, tolerance: float = 0.0) -> bool:
    """Whether two outputs are the same text, up to white space at the ends of lines and of the whole.

    With a tolerance, words that both read as numbers may differ by it, and white space is only what separates words.
    """
    if [line.rstrip() for line in expected.rstrip().split("\n")] == [
        line.rstrip() for line in printed.rstrip().split("\n")
    ]:
        return True
    wanted, got = expected.split(), printed.split()
    return (
        bool(tolerance)
        and len(wanted) == len(got)
        and all(a == b or values.equal(_number(a), _number(b), tolerance) for a, b in zip(wanted, got, strict=True))
    )


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2][:200]


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word
