"""The split judge: the program is asked for values, and whether they are right is decided here or by other code.

The program (the *solver*) never sees an expected value, and nothing that it says is a verdict. A data set's tests
given as code run in a second jailed process, the *tester*, which never runs a line of the program.
"""

from typing import Any

from verifiers.sandbox import channel, values
from verifiers.sandbox.jail import Jail
from verifiers.sandbox.records import Limits
from verifiers.sandbox.run import Ended, Run
from verifiers.sandbox.tally import Tally, close, end_of

_OPERATIONS = ("global", "call", "attribute", "item", "length", "list")
_SHOWN = 100  # characters of a value in feedback


class _Opaque:
    """Stands for an object that did not cross. Equals nothing."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "an object that is no builtin value"


def judge_calls(
    jail: Jail,
    limits: Limits,
    program: str,
    helpers: str,
    entry: str,
    cases: list[tuple[list[Any], Any]],
    tolerance: float,
    keep_going: bool,
) -> Tally:
    """Call `entry` with each case's arguments and hold the results against the expected values, here."""
    tally = Tally(total=len(cases))
    run = jail.start("solver", limits)
    try:
        if not _load(run, tally, program, helpers, entry):
            return tally
        for args, expected in cases:
            call = {"op": "call", "on": entry, "args": values.encode(args), "kwargs": {"d": []}}
            run.send(call)
            wrong = _wrong(run.receive(), expected, tolerance, tally)
            tally.passed += not wrong
            if wrong:
                shown = ", ".join(map(repr, args))
                tally.fail(f"{entry}({shown[:_SHOWN]}) {wrong}")
                if not keep_going:
                    break
    except Ended:
        tally.fail(end_of(run, tally))
    finally:
        close(run, tally)
    return tally


def judge_tests(
    jail: Jail,
    limits: Limits,
    program: str,
    helpers: str,
    entry: str,
    names: tuple[str, ...],
    tests: str,
    keep_going: bool,
) -> Tally:
    """Run tests in a tester that asks the program, in its solver, through us. Each has the wall limit for itself.

    `names` are further names of the program that the tests may use.

    Raises:
        ValueError: When the tests cannot be run whatever the program: a syntax error, a name that nothing defines, an
            import that is missing, a function handed to the program, no assert, no call of the program at all.
    """
    tally = Tally()
    solver = jail.start("solver", limits)
    try:
        if not _load(solver, tally, program, helpers, entry):
            return tally
        solver.rest()
        tester = jail.start("tester", limits)
        try:
            task = {"tests": tests, "helpers": helpers, "entry": entry, "names": list(names), "all": keep_going}
            tester.send(task)
            _mediate(solver, tester, tally)
        except Ended:
            tally.fail(end_of(tester, tally, "the tests"))
        finally:
            tester.close()
    finally:
        close(solver, tally)
    return tally


def _load(run: Run, tally: Tally, program: str, helpers: str, entry: str) -> bool:
    """Have the solver load the program; False when it cannot be asked anything."""
    try:
        run.send({"program": program, "helpers": helpers, "entry": entry})
        answer = run.receive()
    except Ended:
        tally.fail(end_of(run, tally))
        return False
    kind, text = _raised(answer)
    tally.exits += kind == "SystemExit"
    if kind:
        tally.fail(f"{kind}: {text}" if kind != "NameError" else text)
    return not kind


def _mediate(solver: Run, tester: Run, tally: Tally) -> None:
    """Carry questions and answers until the tests are done. The time of each runs while it has the floor."""
    asked = False
    while "done" not in (message := tester.receive()):
        tester.rest()
        if message["op"] not in _OPERATIONS:
            raise ValueError(f"the tests asked for {message['op']!r}")
        answer = _passed_on(solver, message, tally)
        solver.rest()
        if tally.machine:
            return
        asked |= message["op"] != "global" or not _is_handle(answer)
        tester.send(answer)
    done = message["done"]
    if done["broken"]:
        raise ValueError(f"the tests in the reference cannot be run: {done['broken']}")
    tally.passed, tally.total = done["passed"], done["passed"] + done["failed"]
    tally.opaque_results += done["strangers"]
    if done["problem"]:
        tally.fail(done["problem"])
        tally.total = max(tally.total, done["checks"], tally.passed + 1)
    elif not asked and not tally.problem:
        raise ValueError("the tests in the reference never called the program; do they call what 'entry' names?")
    elif not tally.total:
        tally.fail("the tests came to no check")


def _passed_on(solver: Run, question: dict[str, Any], tally: Tally) -> dict[str, Any]:
    """The solver's answer to a question of the tests, in a form that they can read whatever it said."""
    try:
        solver.send(question)
        answer = solver.receive()
        kind, text = _raised(answer)
        if kind:
            return {"raised": [kind, text]}
        values.decode(answer["value"], lambda number: number)
        answer = {"value": answer["value"]}
        channel.pack(answer)
        return answer
    except Ended:
        if not tally.problem:
            tally.fail(end_of(solver, tally))
        return {"raised": ["RuntimeError", "the program ended"]}
    except ValueError as error:
        tally.fail(f"the program's answer is not a value: {error}")
        return {"raised": ["RuntimeError", "no value"]}


def _is_handle(answer: dict[str, Any]) -> bool:
    form = answer.get("value")
    return isinstance(form, dict) and "h" in form


def _wrong(answer: Any, expected: Any, tolerance: float, tally: Tally) -> str:
    """What is wrong with an answer, or an empty string."""
    kind, text = _raised(answer)
    if kind:
        tally.exits += kind == "SystemExit"
        return f"raised {kind}: {text}"
    opaque: list[_Opaque] = []

    def stand_in(number: int) -> _Opaque:
        opaque.append(_Opaque())
        return opaque[-1]

    try:
        got = values.decode(answer["value"], stand_in)
    except values.Untransportable as error:
        return f"gave no value: {error}"
    tally.opaque_results += len(opaque)
    if values.equal(expected, got, tolerance):
        return ""
    return f"gave {_short(got)}, expected {_short(expected)}"


def _raised(answer: Any) -> tuple[str, str]:
    """The exception in an answer of a solver, which may be anything; two empty texts when there is a value."""
    if isinstance(answer, dict):
        if "value" in answer:
            return "", ""
        raised = answer.get("raised")
        if isinstance(raised, list) and len(raised) == 2 and all(isinstance(word, str) for word in raised):
            return raised[0][:_SHOWN] or "Exception", raised[1][:300]
    return "RuntimeError", "the program broke the channel"


def _short(value: Any) -> str:
    try:
        return repr(value)[:_SHOWN]
    except ValueError:  # an int of too many digits
        return "a huge int"
