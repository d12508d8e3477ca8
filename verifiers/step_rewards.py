"""The `step_rewards` verifier: bounds what a policy can collect by taking more steps (2410.15115).

Rewards of steps that simply add up are hacked: the policy repeats steps that are right and needless. Two remedies,
for step rewards r_1 … r_K of an answer:

* Clip:  r_k <- min(r_k - η, 0). No step adds anything; one below η costs.
* Delta: r_k <- r_k - r_{k+1} for k < K - 1, r_{K-1} stays, r_K <- 0 (the outcome's own reward stands there). The sum
  from any step k < K on is then r_k, however many steps follow.

Both together: clip first, then delta.
"""

from collections.abc import Sequence
from dataclasses import replace

from verifiers.nested import Around
from verifiers.options import flag, real
from verifiers.records import ScoreRequest, Verdict


def clip(steps: Sequence[float], eta: float) -> tuple[float, ...]:
    """[K] step rewards with upper bound 0: min(r_k - eta, 0)."""
    return tuple(min(reward - eta, 0.0) for reward in steps)


def delta(steps: Sequence[float]) -> tuple[float, ...]:
    """[K] differences of neighbours; the last but one keeps its reward, the last has none."""
    if len(steps) < 2:
        return (0.0,) * len(steps)
    *before, last = steps[:-1]
    return (*(a - b for a, b in zip(before, steps[1:-1], strict=True)), last, 0.0)


class StepRewards(Around):
    """Reshapes the `steps` of another verifier's verdict; its status, and without `weight` its reward, stay."""

    name = "step_rewards"

    def __init__(
        self, verifier: object = "exact", clip: float | None = None, delta: bool = False, weight: float = 0.0
    ) -> None:
        """Options.

        Args:
            verifier: Gives step rewards: a name, or `{name: …, options: {…}}`.
            clip: The threshold η of the clip mechanism; without it nothing is clipped.
            delta: Whether to take differences.
            weight: What the sum of the new step rewards counts in the reward (the paper's α).
        """
        super().__init__(verifier)
        self._eta = None if clip is None else real("clip", clip)
        self._delta = flag("delta", delta)
        self._weight = real("weight", weight)
        if self._eta is None and not self._delta:
            raise ValueError("step_rewards does nothing without clip or delta; set clip: 0.5, delta: true, or both")
        self.version = f"1[{self._verifier}]"

    def score(self, request: ScoreRequest) -> Verdict:
        """The verdict with other steps; part `steps` is their sum."""
        verdict = self._verifier.score(request)
        if verdict.reward is None:
            return replace(verdict, verifier=self.name, version=self.version)
        steps = verdict.steps if self._eta is None else clip(verdict.steps, self._eta)
        steps = delta(steps) if self._delta else steps
        return replace(
            verdict,
            reward=verdict.reward + self._weight * sum(steps),
            verifier=self.name,
            version=self.version,
            parts=verdict.parts | {"outcome": verdict.reward, "steps": sum(steps)},
            steps=steps,
        )
