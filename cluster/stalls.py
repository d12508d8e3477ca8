"""Explains a stall: who waits for whom, since when and until when, for which sample or version; who is silent, and
what a silent process was last seen to do.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from actors.pulse import Doing, Pulse
from actors.waiting import Wait

logger = logging.getLogger(__name__)
"""Says whole explanations and nothing else; the live view prints them."""

_STACK_LINES = 30
_STATES = {"T": "stopped", "D": "in an uninterruptible system call", "Z": "a zombie"}


@dataclass(frozen=True, slots=True)
class Silent:
    """A process that does not answer."""

    pulse: Pulse
    """Its last."""
    silent_s: float
    state: str
    """As the kernel has it, or why that is not known."""


def explain(
    progress: str, pulses: Iterable[Pulse], driver: Iterable[Wait], silent: Iterable[Silent], logs: Path
) -> str:
    """The whole explanation, as text.

    Args:
        progress: What the run got to, and when.
        pulses: The newest of every actor.
        driver: What the driver itself waits for.
        silent: Those that do not answer.
        logs: Where the processes' stacks are.
    """
    pulses, silent = sorted(pulses, key=lambda pulse: pulse.name), list(silent)
    waits = [("driver", wait) for wait in driver] + [(pulse.name, wait) for pulse in pulses for wait in pulse.waits]
    waits.sort(key=lambda entry: -entry[1].age_s)
    lines = [progress, "", "who waits for whom:"]
    lines += [
        f"  {w.age_s:7.1f} s of {_seconds(w.deadline_s):>8}  {_with_name(name, w.what)}" for name, w in waits
    ] or ["  nobody waits for anybody"]
    lines += ["", "what each is doing:"]
    for pulse in pulses:
        doing = ", ".join(_by_method(pulse.doing)) or "nothing"
        blocked = f"; its event loop has stood still for {pulse.blocked_s:.1f} s" if pulse.blocked_s > 1 else ""
        lines.append(f"  {pulse.name} (process {pulse.process_id}, {pulse.stamp} done): {doing}{blocked}")
    lines += ["", "who is silent:"] + ([line for one in silent for line in _silence(one, logs)] or ["  nobody"])
    return "\n".join(lines) + "\n"


def publish(text: str, directory: Path) -> Path:
    """Tell an explanation: to a file of its own in `directory`, to the log and to who looks on; returns the file."""
    file = directory / time.strftime("%Y%m%d-%H%M%S.txt")
    directory.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    logger.warning("%s", text)
    return file


def state_in_words(state: str) -> str:
    """What `prod` told, as half a sentence."""
    return f"its process is {_STATES.get(state, 'running')} (state {state})" if len(state) == 1 else state


def _by_method(doing: Iterable[Doing]) -> list[str]:
    """A phrase per method, however many calls of it there are: a worker generates thousands of answers at once."""
    ages: dict[str, list[float]] = {}
    for one in doing:
        ages.setdefault(one.method, []).append(one.age_s)
    return [
        f"{method} for {max(of):.1f} s" if len(of) == 1 else f"{len(of)} × {method}, the longest for {max(of):.1f} s"
        for method, of in ages.items()
    ]


def _silence(one: Silent, logs: Path) -> list[str]:
    state = state_in_words(one.state)
    head = f"  {one.pulse.name}, process {one.pulse.process_id}, not heard of for {one.silent_s:.1f} s, {state}"
    file = logs / f"{one.pulse.name}.stacks"
    stacks = file.read_text(errors="replace").splitlines()[-_STACK_LINES:] if file.exists() else []
    return [head, *(f"    {line}" for line in stacks)]


def _with_name(name: str, what: str) -> str:
    return what if what.startswith(name) else f"{name}: {what}"


def _seconds(seconds: float) -> str:
    return "no limit" if seconds == float("inf") else f"{seconds:g} s"
