"""A phase, and who decides which comes next.

A phase starts from *named* weights and produces *named* weights, so that "RFT starts from θᵢ, not from the end
of the RL phase" (2511.04285, Algorithm 1) is a value that a test can read. The controller executes phases; it
does not decide on them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

PhaseKind = Literal["warmup", "rl", "sample", "rft", "merge"]


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of a run with one objective and a fresh optimizer.

    Example: `Phase("rft", 0, init_from="theta-0", produces="theta-1")` fine-tunes θ₀, not the end of the RL phase.
    """

    kind: PhaseKind
    """`warmup` and `rft` learn from demonstrations; `rl` learns from rewards; `sample` generates and scores, and learns
    nothing; `merge` averages named weights."""
    iteration: int
    """RLoop iteration, from 0; the warm-up belongs to iteration 0."""
    init_from: str
    """Name of the weights it starts from."""
    produces: str
    """Name of the weights it ends with; those it starts from in a phase that learns nothing."""
    steps: int = 0
    """rl: optimizer steps; sample: as many groups as so many steps take; elsewhere 0, the data decide."""
    last_steps: int = 0
    """rft: its experts come from the last so many steps of the iteration's exploration; 0: from all of them."""
    average: tuple[tuple[str, float], ...] = ()
    """merge: (name of weights, share), the shares adding up to 1."""
    ended: str = ""
    """rl: why it ended before its steps were made; `steps` are then those that it made. Empty otherwise."""

    @property
    def title(self) -> str:
        """For people: where an evaluation after this phase stands."""
        if self.kind == "warmup":
            return "base policy"
        return f"iteration {self.iteration + 1}, after {_TITLES[self.kind]}"

    def is_same(self, other: "Phase") -> bool:
        """Whether it is the same stretch of the run, be it longer or shorter."""
        return (self.kind, self.iteration, self.produces) == (other.kind, other.iteration, other.produces)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Phase":
        """A phase as JSON has it."""
        return cls(**{**fields, "average": tuple((name, share) for name, share in fields["average"])})


_TITLES: dict[PhaseKind, str] = {"rl": "RL", "sample": "sampling", "rft": "RFT", "merge": "merging"}


class PhaseScheduler(Protocol):
    """Decides the next phase from those that are done; the same for the same, for every start of a run asks again."""

    def next(self, done: Sequence[Phase]) -> Phase | None:
        """The next phase, or None when the run is complete."""
        ...
