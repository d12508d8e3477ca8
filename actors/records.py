"""What the actors tell each other and the people who watch: status, not tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

RunState = Literal["starting", "running", "stopping", "finished", "interrupted", "failed"]
PhaseKind = Literal["warmup", "rl", "sample", "rft", "merge", "eval"]


@dataclass(frozen=True, slots=True)
class EvalRow:
    """Held-out results of one set of weights; a line of the final table."""

    weights: str
    """Name of the checkpoint, e.g. `base`, `rl-0`, `theta-1`."""
    after: str
    """For people: `base policy`, `iteration 1, after RL`…"""
    metrics: dict[str, float]
    """`pass@1`, `maj@8`, `pass@8_low`… over all held-out problems and, as `4 numbers/pass@1`, per held-out set."""
    num_problems: int
    num_samples: int
    number: int = 0
    """Of the evaluation, as the journal knows it."""
    step: int = 0
    """RL step of the phase that it was begun after, in the middle of the phase; 0 at the end of one."""
    kept: bool = True
    """Whether `checkpoints/<weights>` is there: always at the end of a phase, in the middle only of the best."""


def best(evals: Sequence[EvalRow], metric: str) -> EvalRow | None:
    """The best of the evaluated weights that are kept, the earliest of equals; None where no row has the metric."""
    scored = [row for row in evals if row.kept and metric in row.metrics]
    return max(scored, key=lambda row: row.metrics[metric], default=None)


@dataclass(frozen=True, slots=True)
class BufferStatus:
    """Where groups are right now."""

    running: int = 0
    """Groups leased to workers."""
    ready: int = 0
    """Groups finished and waiting to be trained."""
    accepted: int = 0
    """Groups accepted for training since the run's start (AReaL's counter)."""
    capacity: int = 0
    """Groups that may be started now."""
    finished: int = 0
    """Groups finished in this phase, all fates."""
    tokens: int = 0
    """Tokens of finished groups since the buffer came up, all fates."""
    dropped_tokens: int = 0
    """Of these, tokens of groups that were dropped."""
    reported: int = 0
    """Tokens that came in with reports of unfinished answers since the buffer came up."""
    unfinished: int = 0
    """Groups of which part is known: on lease, or waiting to be continued."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Groups not trained in this phase, by reason (`zero_variance`, `failed`, `stale`, …)."""
    expired: int = 0
    """Leases that were not renewed in time since the buffer came up."""
    refused: int = 0
    """Deliveries that came late or twice since the buffer came up."""


@dataclass(frozen=True, slots=True)
class Late:
    """An answer whose verdict takes long: the pool gives it when it is asked for the ticket."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Unscored:
    """An answer whose verifier cannot be had at the moment: it may be asked for again."""

    why: str


@dataclass(frozen=True, slots=True)
class RunStatus:
    """One picture of the run; the live view draws it, `status.json` in the run directory holds it."""

    state: RunState = "starting"
    phase: PhaseKind | None = None
    iteration: int = 0
    """From 0."""
    iterations: int = 0
    step: int = 0
    """Steps done in this phase."""
    steps: int = 0
    version: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    """Newest value of each: `reward`, `loss`, `staleness_mean`, `generate_tokens_per_s`, `train_tokens_per_s`…"""
    buffer: BufferStatus = field(default_factory=BufferStatus)
    evals: tuple[EvalRow, ...] = ()
    staff: dict[str, int] = field(default_factory=dict)
    """How many `rollout` workers and `verifiers` pools there are; the driver's to fill in, as is what is wanted."""
    staff_wanted: dict[str, int] = field(default_factory=dict)
    engines: dict[str, float] = field(default_factory=dict)
    """Over all of them: `requests` under way, `slots` for such, `pause_s` that the last weights kept requests waiting
    at most; the driver's too."""
    waiting: str = ""
    """What the controller waits for now: who, for whom, since when."""
    elapsed_s: float = 0.0
    """Since the command was given; the driver's to fill in."""
    remaining_s: float | None = None
    """Estimate of the time left; None until there is one."""
    phase_remaining_s: float | None = None
    """The same for this phase alone, which is known sooner."""
    message: str = ""
    """Why it failed or stopped, or had nothing to do; empty otherwise."""
