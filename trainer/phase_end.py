"""When an RL phase should end before its steps are made: it forgets, it narrows, or it over-fits.

    forgetting            share of the problems solved earlier in the phase that their latest answers miss   (rises)
    inter_step_diversity  how unlike the answers to one problem of two steps are (`rollout.drift`)           (falls)
    entropy               of a token, in nats                                                                (falls)
    overfit_gap           how far training reward rose and held-out pass@k fell, over three evaluations      (rises)

Nothing here acts or waits. What is remembered of a phase is `Signals`; it is part of the manifest. A reason to end is
recorded with the step that gave it, so steps that are trained again after a crash are not judged again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trainer.config import PhaseEndConfig

_CURVE = 3  # evaluations that a trend is over


@dataclass(frozen=True, slots=True)
class Signals:
    """What is remembered of the phase under way."""

    outside: tuple[tuple[str, int], ...] = ()
    """(signal, steps in a row beyond its bound up to the last one)."""
    steps: int = 0
    """Steps since the last evaluation."""
    rewards: float = 0.0
    """Sum of their mean rewards."""
    curve: tuple[tuple[int, float, float], ...] = ()
    """(step, mean reward since the evaluation before, held-out pass@k) of the last evaluations."""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Signals":
        """Signals as JSON has them."""
        pairs = {name: tuple(tuple(item) for item in fields[name]) for name in ("outside", "curve")}
        return cls(**{**fields, **pairs})


@dataclass(frozen=True, slots=True)
class PhaseEnd:
    """The rules of a phase."""

    config: PhaseEndConfig

    def step(self, step: int, metrics: Mapping[str, float], signals: Signals) -> tuple[str, Signals]:
        """Judge a step; returns why the phase should end with it (empty: it should not), and what to remember.

        A signal that is missing is not judged.
        """
        reward = metrics.get("reward_generated", metrics.get("reward"))
        if reward is not None:
            signals = replace(signals, steps=signals.steps + 1, rewards=signals.rewards + reward)
        beyond = dict(self._beyond(metrics))
        before = dict(signals.outside)
        outside = {name: before.get(name, 0) + 1 for name in beyond}
        signals = replace(signals, outside=tuple(outside.items()))
        if step < self.config.min_steps:
            return "", signals
        for name, steps in outside.items():
            if steps >= self.config.patience:
                return f"{beyond[name]}, {steps} step{'s' * (steps > 1)} in a row", signals
        return "", signals

    def evaluated(self, step: int, pass_at_k: float, signals: Signals) -> tuple[dict[str, float], Signals]:
        """A held-out evaluation after `step` came in; returns the metrics of the trend, once there is one."""
        if not signals.steps:
            return {}, signals
        curve = (*signals.curve, (step, signals.rewards / signals.steps, pass_at_k))[-_CURVE:]
        return trend(curve), Signals(signals.outside, curve=curve)

    def _beyond(self, metrics: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        config = self.config
        most = {"forgetting": config.forgetting, "overfit_gap": config.overfit_gap}
        least = {"inter_step_diversity": config.inter_step_diversity, "entropy": config.entropy}
        for name, bound in most.items():
            value = metrics.get(name)
            if bound is not None and value is not None and value > bound:
                yield name, f"{name} is {value:.4g}, above schedule.end.{name}={bound:g}"
        for name, bound in least.items():
            value = metrics.get(name)
            if bound is not None and value is not None and value < bound:
                yield name, f"{name} is {value:.4g}, below schedule.end.{name}={bound:g}"


def trend(curve: tuple[tuple[int, float, float], ...]) -> dict[str, float]:
    """`reward_trend` and `heldout_trend`, their changes along a least-squares line over the evaluations, and the gap.

    `overfit_gap` is reward_trend - heldout_trend where training reward rises while held-out pass@k falls, else 0.
    Empty before there are three evaluations.
    """
    if len(curve) < _CURVE:
        return {}
    steps, rewards, passes = (np.array(column, np.float64) for column in zip(*curve, strict=True))
    span = steps[-1] - steps[0]
    reward, heldout = (float(np.polyfit(steps, values, 1)[0] * span) for values in (rewards, passes))
    gap = reward - heldout if reward > 0 > heldout else 0.0
    return {"reward_trend": reward, "heldout_trend": heldout, "overfit_gap": gap}
