"""Which phase comes next. RLoop itself is a schedule: RL from θᵢ, then RFT of that same θᵢ, again and again.

A phase starts from *named* weights and produces *named* weights, so that "RFT starts from θᵢ, not from the end
of the RL phase" (2511.04285, Algorithm 1) is a value that a test can read. The controller executes phases; it
does not decide on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

PhaseKind = Literal["warmup", "rl", "rft"]


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of training with one objective and a fresh optimizer."""

    kind: PhaseKind
    iteration: int
    """RLoop iteration, from 0; the warm-up belongs to iteration 0."""
    init_from: str
    """Name of the weights it starts from."""
    produces: str
    """Name of the weights it ends with."""

    @property
    def title(self) -> str:
        """For people: where an evaluation after this phase stands."""
        if self.kind == "warmup":
            return "base policy"
        return f"iteration {self.iteration + 1}, after {'RL' if self.kind == 'rl' else 'RFT'}"


class PhaseScheduler(Protocol):
    """Decides the next phase from those that are done."""

    def next(self, done: Sequence[Phase]) -> Phase | None:
        """The next phase, or None when the run is complete."""
        ...


@dataclass(frozen=True, slots=True)
class RLoopSchedule:
    """`iterations` × (RL from θᵢ → RFT of θᵢ on the phase's successes), after an optional warm-up that makes θ₀.

    Example: `RLoopSchedule(1, warmup=False)` gives RL θ₀ → rl-0, then RFT θ₀ → θ₁.
    """

    iterations: int
    warmup: bool = False

    def next(self, done: Sequence[Phase]) -> Phase | None:
        """The next phase, or None when every iteration has had its RFT."""
        if self.warmup and not done:
            return Phase("warmup", 0, init_from="scratch", produces="theta-0")
        iteration, half = divmod(len(done) - self.warmup, 2)
        if iteration >= self.iterations:
            return None
        start = f"theta-{iteration}"
        if half == 0:
            return Phase("rl", iteration, init_from=start, produces=f"rl-{iteration}")
        return Phase("rft", iteration, init_from=start, produces=f"theta-{iteration + 1}")
