"""What people see of a run: the newest numbers, what it waits for, and how long it will still take."""

import json
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from actors.manifest import Manifest
from actors.records import BufferStatus, PhaseKind, RunState, RunStatus
from trainer.phases import PhaseScheduler

_RATE_PICTURES = 20  # the generation rate is over the last so many pictures, about ten seconds


class Progress:
    """Collects numbers from the controller; writes `metrics.jsonl`; answers with a `RunStatus`."""

    def __init__(self, run_dir: Path, iterations: int, clock: Callable[[], float] = time.monotonic):
        self._metrics_file = run_dir / "metrics.jsonl"
        self._clock = clock
        self._seconds: dict[str, float] = defaultdict(float)  # spent per kind of work
        self._units: dict[str, float] = defaultdict(float)  # steps of it (evaluations count as one)
        self._since: tuple[float, str] | None = None
        self._done_before = 0  # when the phase began, or was taken up
        self._generated: deque[tuple[float, int]] = deque(maxlen=_RATE_PICTURES)
        self.current = RunStatus(iterations=iterations)
        self.still_to_come: Callable[[], dict[str, float]] = dict
        """Units left per kind of work after the current phase; set by the controller."""

    def update(self, **changes: object) -> None:
        """Replace fields of the current picture."""
        self.current = replace(self.current, **changes)  # type: ignore[arg-type]

    def state(self, state: RunState, message: str = "") -> None:
        """Move to another state of the run."""
        self.update(state=state, message=message)

    def begin(self, phase: PhaseKind, iteration: int, steps: int, done: int = 0) -> None:
        """A phase starts (or goes on after a resume)."""
        self._done_before = done
        self.update(phase=phase, iteration=iteration, steps=steps, step=done)

    def step(self, kind: str, seconds: float, metrics: dict[str, float], units: float = 1, **row: object) -> None:
        """One optimizer step (an evaluation, `units` sampled groups) is done: remember its cost, append a line."""
        self._seconds[kind] += seconds
        self._units[kind] += units
        self.note(kind, metrics, **row, seconds=seconds)

    def note(self, kind: str, metrics: dict[str, float], **row: object) -> None:
        """Something worth a line of metrics happened. Numbers of an evaluation are no news of training."""
        if kind != "eval":
            self.update(metrics={**self.current.metrics, **metrics})
        line = {"time": time.time(), "phase": kind, **row, **metrics}
        with self._metrics_file.open("a") as file:
            file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()}) + "\n")

    def waiting(self, what: str) -> None:
        """The controller now waits for `what` (empty: it does not)."""
        self._since = (self._clock(), what) if what else None

    def picture(self, buffer: BufferStatus | None = None) -> RunStatus:
        """The status as of now."""
        now = self._clock()
        if buffer:
            self._generated.append((now, buffer.tokens))
            if self.current.phase == "sample":
                self.update(step=min(self._done_before + buffer.finished, self.current.steps))
            then, before = self._generated[0]
            if now > then:
                rate = (buffer.tokens - before) / (now - then)
                self.update(metrics={**self.current.metrics, "generate_tokens_per_s": rate})
        waiting = f"{self._since[1]} ({now - self._since[0]:.0f} s)" if self._since else ""
        self.current = replace(
            self.current,
            buffer=buffer or self.current.buffer,
            waiting=waiting,
            remaining_s=self._remaining(),
            phase_remaining_s=self._phase_remaining(),
        )
        return self.current

    def _phase_remaining(self) -> float | None:
        kind = self.current.phase or ""
        if not self.current.steps or not self._units[kind]:
            return None
        return (self.current.steps - self.current.step) * self._seconds[kind] / self._units[kind]

    def _remaining(self) -> float | None:
        """Units left × seconds per unit so far; None while a kind of work has not been seen yet."""
        left = dict(self.still_to_come())
        phase = self.current.phase
        if phase and phase != "eval":
            left[phase] = left.get(phase, 0.0) + max(self.current.steps - self.current.step, 0)
        if any(not self._units[kind] for kind, units in left.items() if units and kind != "rft"):
            return None
        return sum(units * self._seconds[k] / self._units[k] for k, units in left.items() if self._units[k])


def still_to_come(
    scheduler: PhaseScheduler, manifest: Manifest, groups_per_step: int, after_rl: bool
) -> dict[str, float]:
    """RL steps, sampled groups and evaluations left after the current phase; RFT's steps are not known beforehand.

    With `after_rl` an RL phase is evaluated too when another one follows.
    """
    left, done = {"rl": 0.0, "sample": 0.0, "eval": 0.0}, [*manifest.done]
    phase = manifest.phase
    if phase is None and (phase := scheduler.next(done)):
        left["rl"] += phase.steps if phase.kind == "rl" else 0
        left["sample"] += phase.steps * groups_per_step if phase.kind == "sample" else 0
    while phase:
        done.append(phase)
        follows = scheduler.next(done)
        evaluated = phase.kind != "sample" and (after_rl or phase.kind != "rl" or follows is None)
        left["eval"] += evaluated
        if phase := follows:
            left["rl"] += phase.steps if phase.kind == "rl" else 0
            left["sample"] += phase.steps * groups_per_step if phase.kind == "sample" else 0
    return left
