"""The `code` verifier: runs the answer's program in the sandbox and judges the values that it gives."""

import os
import re
from collections.abc import Sequence

from verifiers import code_reference
from verifiers.records import ScoreRequest, Verdict
from verifiers.sandbox import judge, outputs
from verifiers.sandbox.jail import Jail
from verifiers.sandbox.records import TIERS, Limits, SandboxError, Tier
from verifiers.sandbox.tally import Tally
from verifiers.sandbox.tiers import open_jail

_FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[\w+#.-]*)[^\n<]*\n"
    r"(?P<code>.*?)(?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)",
    re.DOTALL | re.MULTILINE,
)
_START_S = 10.0  # what starting a sandbox may add to the first answer of a process
_PYTHON = ("python", "python3", "py")
_READS = r"\binput\b|\bstdin\b|\bopen\(|\bfileinput\b"
_PRINTS = r"\bprint\b|\bstdout\b|\.write\("


class CodeAnswer:
    """`program_in` says which part of an answer the program is.

    A program that is wrong, raises, exits, or passes one of its own limits is `wrong`. It is `timeout` when others
    kept it from a processor for as long as it may work: that is the machine's fault, not the program's.
    """

    name = "code"
    version = "2"
    slow_s = 2.0
    """Programs may take seconds, and too many at a time would take each other's."""

    def __init__(
        self,
        wall_s: float = 4.0,
        cpu_s: int = 3,
        memory_mb: int = 512,
        output_kb: int = 1024,
        partial: bool = False,
        tier: str = "auto",
        allow_unsafe_code: bool = False,
        command: Sequence[str] = (),
    ) -> None:
        """Options of a recipe.

        Args:
            wall_s: Seconds for one answer, all its cases together; keep it below the pool's own time-out.
            cpu_s: Whole seconds of processor time for one process.
            memory_mb: MiB that a process may take.
            output_kb: KiB that a process may print.
            partial: Whether the reward is the fraction of checks passed; otherwise 1 for all of them, else 0.
            tier: `auto` for the best of A, B and C that works here, or one of A, B, C, D.
            allow_unsafe_code: Whether tier D, with resource limits alone, may be used.
            command: What runs a program against inputs, `{program}` standing for its file; Python when empty. Example:
                `["sh", "-c", "gcc -O1 -x c {program} -o p && ./p"]`. Runs in tier A alone.

        Raises:
            ValueError: For an option out of its bounds.
        """
        self._limits = Limits(wall_s, cpu_s, memory_mb, output_kb)
        for option, value in (("partial", partial), ("allow_unsafe_code", allow_unsafe_code)):
            if not isinstance(value, bool):
                raise ValueError(f"{option} is true or false, got {value!r}")
        if tier != "auto" and tier not in TIERS:
            raise ValueError(f"tier is 'auto' or one of {', '.join(TIERS)}, got {tier!r}; see docs/sandbox.md")
        if tier == "D" and not allow_unsafe_code:
            raise ValueError(
                "tier 'D' holds no attacker; set allow_unsafe_code=true to use it, or leave tier at 'auto'"
            )
        if isinstance(command, str) or not all(isinstance(word, str) for word in command):
            raise ValueError(f"command is a list of words, such as ['node', '{{program}}'], got {command!r}")
        if command and tier not in ("auto", "A"):
            raise ValueError(
                f"a command runs in tier A alone, got tier {tier!r}; leave tier at 'auto', or command empty"
            )
        self._command = tuple(command)
        self._partial, self._allow_unsafe_code = partial, allow_unsafe_code
        self._tiers: tuple[Tier, ...] = TIERS[: 1 if command else 3] if tier == "auto" else (tier,)  # type: ignore[assignment]
        self._tier: Tier | None = None
        self._jail: Jail | None = None
        self._owner = 0  # the process that opened the jail; a fork of it opens its own
        self.timeout_s = 2 * wall_s + _START_S

    def prepare(self) -> None:
        """Have the sandbox test itself, and choose the tier. Raises SandboxError when none works here.

        Leaves no process behind: this may run in a template, whose forks each open a jail of their own.
        """
        if self._tier is None:
            jail, _ = open_jail(self._tiers, self._allow_unsafe_code and not self._command)
            self._tier = jail.tier
            jail.close()

    @property
    def isolation(self) -> str:
        """The tier, once it is chosen."""
        return self._tier or ""

    def open(self) -> Jail:
        """This process's sandbox, started if there is none yet."""
        self.prepare()
        assert self._tier is not None
        if self._jail is None or self._owner != os.getpid():
            self._jail, self._owner = Jail(self._tier), os.getpid()
        return self._jail

    def close(self) -> None:
        """End the sandbox. It also ends with this process."""
        if self._jail is not None:
            self._jail.close()
            self._jail = None

    def score(self, request: ScoreRequest) -> Verdict:
        """Reward 1 when every check passes, else 0, or the fraction that passed with `partial`.

        Raises:
            ValueError: When the reference is malformed, or its tests cannot be run whatever the program.
            SandboxError: When the sandbox is broken twice in a row.
        """
        reference = code_reference.read(request.reference)
        if self._command and not isinstance(reference, code_reference.Outputs):
            raise ValueError(
                "a program of another command has inputs and outputs; cases with an 'entry' are for Python"
            )
        entry = "" if isinstance(reference, code_reference.Outputs) else reference.entry
        program = program_in(request.response, entry, python=not self._command)
        try:
            tally = self._judge(program, reference)
        except SandboxError:
            self.close()
            tally = self._judge(program, reference)
        facts = {
            "denied_syscalls": float(tally.denied_syscalls),
            "exits": float(tally.exits),
            "opaque_results": float(tally.opaque_results),
        }
        fraction = tally.passed / tally.total if tally.total else 0.0
        known = {
            "parts": {"passed": fraction},
            "feedback": tally.problem,
            "rule": type(reference).__name__.lower(),
            "isolation": self._tier,
            "facts": facts,
        }
        if tally.machine:
            return Verdict(None, "timeout", self.name, self.version, **known)  # type: ignore[arg-type]
        if tally.correct:
            return Verdict(1.0, "correct", self.name, self.version, **known)  # type: ignore[arg-type]
        reward = min(fraction, 1 - 1 / (tally.total + 1)) if self._partial else 0.0
        return Verdict(reward, "wrong", self.name, self.version, **known)  # type: ignore[arg-type]

    def _judge(self, program: str, reference: code_reference.Reference) -> Tally:
        jail, limits, everything = self.open(), self._limits, self._partial
        if not program.strip():
            return Tally(total=1, problem="there is no program in the answer")
        match reference:
            case code_reference.Calls(entry, cases, helpers, tolerance):
                return judge.judge_calls(jail, limits, program, helpers, entry, cases, tolerance, everything)
            case code_reference.Assertions(entry, tests, helpers, names):
                return judge.judge_tests(jail, limits, program, helpers, entry, names, tests, everything)
            case code_reference.Outputs(cases, tolerance):
                return outputs.judge_outputs(jail, limits, program, self._command, cases, tolerance, everything)


def program_in(response: str, entry: str = "", python: bool = True) -> str:
    """The program in an answer: its last fenced block that can be it, or all of it when there are no fences.

    Args:
        response: The answer. A fence that is not closed reaches to the end.
        entry: What the program has to define. Blocks that do so come before others, which show how it is used or
            what it prints. Without it, blocks that read and print come first, then those that print.
        python: Whether it is Python: then blocks that are called so come before the others.
    """
    blocks = [
        (match["language"].lower(), _dedented(match["code"], match["indent"])) for match in _FENCE.finditer(response)
    ]
    if not blocks:
        return response
    if not python:
        return blocks[-1][1]
    defines = rf"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+{entry}\b|^{entry}[ \t]*[:=]"
    wanted = [[defines]] if entry else [[_READS, _PRINTS], [_PRINTS]]
    named = [code for language, code in blocks if language in _PYTHON] or [code for _, code in blocks]
    for patterns in wanted:
        fitting = [code for code in named if all(re.search(pattern, code, re.MULTILINE) for pattern in patterns)]
        if fitting:
            return fitting[-1]
    return named[-1]


def _dedented(code: str, indent: str) -> str:
    """A block without the indent of its fence, as in an item of a list."""
    return re.sub(rf"^[ \t]{{1,{len(indent)}}}", "", code, flags=re.MULTILINE) if indent else code
