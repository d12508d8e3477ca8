"""The stability guard: judges the metrics of every step, and says what to do when they stay outside their bands.

First the staleness bound is tightened, then the learner goes back to its last good checkpoint, then the run stops.
Nothing here acts or waits. What is remembered of a phase is a `Standing`; it is part of the manifest, so that steps
which are trained again after a crash come to the same rulings.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from trainer.config import GuardConfig
from trainer.phases import PhaseKind

Action = Literal["go_on", "tighten", "roll_back", "stop"]

_WINDOW = 64  # gradient norms behind the median
_FEWEST = 8  # of fewer, one more step could move it far


@dataclass(frozen=True, slots=True)
class Standing:
    """What the guard remembers of the phase under way."""

    steps_outside: int = 0
    """Steps in a row, up to the last one, that were outside a band."""
    tightened: int = 0
    """How often the staleness bound was lowered by one."""
    rollbacks: int = 0
    grad_norms: tuple[float, ...] = ()
    """Finite gradient norms of the last steps, oldest first."""

    @property
    def happy(self) -> bool:
        """Whether the last step was inside all bands: only then is a checkpoint a good one."""
        return self.steps_outside == 0


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is to be done after a step."""

    action: Action
    reason: str
    """Metric, value, band, steps and what is done, for people; empty when the step was inside all bands."""


@dataclass(frozen=True, slots=True)
class Guard:
    """The rules of one phase."""

    config: GuardConfig
    kind: PhaseKind = "rl"
    """Bands are for RL; in supervised phases a step is outside only when its loss or gradient was not finite."""
    max_staleness: float = 0.0
    """η at the start of the phase; below 1 there is nothing to tighten."""

    def judge(self, metrics: Mapping[str, float], standing: Standing) -> tuple[Ruling, Standing]:
        """Judge a step by its metrics; returns what to do, and how the phase stands after it.

        Every `patience` steps in a row outside, the next measure is taken. A metric that is missing is not judged.
        """
        outside = "; ".join(self._complaints(metrics, standing.grad_norms))
        norm = metrics.get("grad_norm", math.nan)
        norms = (*standing.grad_norms, norm)[-_WINDOW:] if math.isfinite(norm) else standing.grad_norms
        if not outside:
            return Ruling("go_on", ""), replace(standing, steps_outside=0, grad_norms=norms)
        steps = standing.steps_outside + 1
        after = replace(standing, steps_outside=steps, grad_norms=norms)
        reason = f"{outside} ({steps} step{'s' * (steps > 1)} in a row outside)"
        if steps % self.config.patience:
            return Ruling("go_on", reason), after
        return self._act(reason, after)

    def bound(self, standing: Standing) -> float:
        """The staleness bound as it stands."""
        return max(0.0, self.max_staleness - standing.tightened)

    def _act(self, reason: str, standing: Standing) -> tuple[Ruling, Standing]:
        bound, most = self.bound(standing), self.config.max_rollbacks
        if self.kind == "rl" and bound >= 1 and standing.tightened <= standing.rollbacks:
            tight = replace(standing, tightened=standing.tightened + 1)
            done = f"the staleness bound goes from {bound:g} to {self.bound(tight):g} for the rest of the phase"
            return Ruling("tighten", f"{reason}; {done}"), tight
        if standing.rollbacks < most:
            back = replace(standing, rollbacks=standing.rollbacks + 1, steps_outside=0)
            done = f"the learner goes back to its last good checkpoint (rollback {back.rollbacks} of at most {most})"
            return Ruling("roll_back", f"{reason}; {done}"), back
        spent = f"after {standing.rollbacks} rollbacks in this phase, of trainer.guard.max_rollbacks={most}"
        remedy = "start anew, e.g. with a lower learning rate, or widen the band and resume"
        return Ruling("stop", f"{reason}; the run stops {spent}: {remedy}"), standing

    def _complaints(self, metrics: Mapping[str, float], grad_norms: tuple[float, ...]) -> Iterator[str]:
        if skipped := metrics.get("skipped", 0.0):
            yield f"loss or gradient was not finite in {skipped:.0%} of the updates, which were left out"
        if self.kind != "rl":
            return
        for band in self._bands(grad_norms):
            value = metrics.get(band.metric)
            if value is not None and not band.holds(value):
                yield f"{band.metric} is {value:.4g}, trainer.guard.{band.metric} allows {band}"

    def _bands(self, grad_norms: tuple[float, ...]) -> Iterator["_Band"]:
        config = self.config
        for metric, most in (("mismatch_kl", config.mismatch_kl), ("clip_frac", config.clip_frac)):
            if most is not None:
                yield _Band(metric, high=most)
        for metric, least in (("ess_frac", config.ess_frac), ("entropy", config.entropy)):
            if least is not None:
                yield _Band(metric, low=least)
        # A median of 0 is of steps without anything to learn: the first that has something is not out of band.
        if config.grad_norm is not None and len(grad_norms) >= _FEWEST and (middle := median(grad_norms)) > 0:
            yield _Band("grad_norm", high=config.grad_norm * middle)


@dataclass(frozen=True, slots=True)
class _Band:
    metric: str
    low: float = -math.inf
    high: float = math.inf

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high  # never of NaN

    def __str__(self) -> str:
        return f"at most {self.high:.4g}" if self.high < math.inf else f"at least {self.low:.4g}"
