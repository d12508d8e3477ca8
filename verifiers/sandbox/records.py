"""What the sandbox hands out, and by what it is bounded. Imported on both sides of the wall."""

from dataclasses import dataclass
from typing import Literal

Tier = Literal["A", "B", "C", "D"]
TIERS: tuple[Tier, ...] = ("A", "B", "C", "D")
"""Best first. A: namespaces, Landlock and seccomp. B: Landlock and seccomp. C: seccomp alone, every open denied.
D: resource limits alone, which hold no attacker."""

Role = Literal["solver", "tester", "script", "command"]
"""What a jailed process does: answer calls, run tests against a solver, run a Python program on its standard input, or
have another command run one."""

Cause = Literal["exit", "signal", "cpu", "wall", "output", "denied", "starved", "outside"]
"""Why a process ended: by itself, by a signal, or because we ended it for its CPU time, its wall time, its output, or
for system calls that are denied and that it does not stop trying. Two are no fault of its own: `starved`, when it
waited for a processor for longer than it may work, and `outside`, when somebody else killed it."""


class SandboxError(RuntimeError):
    """The jail itself is broken or missing: no verdict follows from this."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one jailed process may use.

    Example: `Limits(wall_s=4, cpu_s=3, memory_mb=512, output_kb=1024)`
    """

    wall_s: float = 4.0
    """Seconds that it may be at work; those in which it had no processor do not count, up to as many again."""
    cpu_s: int = 3
    """Whole seconds of processor time, all threads together."""
    memory_mb: int = 512
    """MiB of address space beyond what the interpreter itself takes."""
    output_kb: int = 1024
    """KiB that it may print, standard output and standard error together."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("wall_s", 0.05, 600),
            ("cpu_s", 1, 600),
            ("memory_mb", 16, 65_536),
            ("output_kb", 1, 65_536),
        ):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
                raise ValueError(
                    f"{name} lies between {least} and {most}, got {value!r}; set it in the verifier options"
                )
        if self.cpu_s != int(self.cpu_s):
            raise ValueError(f"cpu_s is a whole number of seconds, got {self.cpu_s!r}; the kernel counts no finer")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a jailed process ended."""

    cause: Cause
    """Why."""
    code: int
    """Exit status; a signal's number, negative, when a signal ended it."""
    cpu_s: float
    """Seconds of processor time that it used."""
    detail: str = ""
    """Further words for people."""
