"""How a program did, and what the end of its process says about that."""

from dataclasses import dataclass

from verifiers.sandbox.records import Ending, Limits, SandboxError
from verifiers.sandbox.run import Run


@dataclass(slots=True)
class Tally:
    """How a program did."""

    passed: int = 0
    """Checks that it passed."""
    total: int = 0
    """Checks that there are, as far as known: tests that stop early know only those they came to."""
    problem: str = ""
    """The first thing that is wrong; empty when nothing is."""
    opaque_results: int = 0
    """Objects compared that are no builtin values."""
    exits: int = 0
    """Times that it ended its process where it should have answered."""
    denied_syscalls: int = 0
    """System calls that the jail refused."""
    machine: bool = False
    """Whether it ran out of time for want of a processor: no verdict follows."""

    @property
    def correct(self) -> bool:
        """Whether every check passed, and there were some."""
        return not self.problem and 0 < self.passed == self.total

    def fail(self, problem: str) -> None:
        """Note a problem; the first one is kept. Programs write half characters, which no file takes."""
        self.problem = self.problem or problem.encode("utf-8", "replace").decode()


def end_of(run: Run, tally: Tally, who: str = "the program") -> str:
    """What is wrong with a process that ended where it should have answered.

    Raises:
        SandboxError: When that was somebody else's doing.
    """
    ending = run.wait()
    if ending.cause == "outside":
        raise SandboxError(f"{who} was killed from outside; has the machine run out of memory?")
    tally.exits += ending.cause == "exit" and who == "the program"
    tally.machine |= ending.cause == "starved"
    return f"{who} {_ending(ending, run.limits)}"


def _ending(ending: Ending, limits: Limits) -> str:
    match ending.cause:
        case "wall":
            return f"ran into the time limit of {limits.wall_s:.3g} s"
        case "starved":
            return f"had no processor for most of {2 * limits.wall_s:.3g} s"
        case "cpu":
            return f"used more than {limits.cpu_s} s of processor time"
        case "output":
            return ending.detail
        case "denied":
            return "kept making system calls that are denied"
        case "signal":
            return f"was killed by signal {-ending.code}"
    return f"exited with status {ending.code} where it should have answered"


def close(run: Run, tally: Tally) -> None:
    """End a solver, and note what it was refused."""
    run.close()
    tally.denied_syscalls += run.denied
