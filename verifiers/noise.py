"""The `noise` verifier: corrects rewards for a verifier that errs at known rates (2510.00915).

The channel: a wrong answer is accepted with probability ρ0 (false positive), a right one refused with probability ρ1
(false negative), so for a true reward R in {0, 1} the observed one has mean ρ0 + (1 - ρ0 - ρ1) R.

* Backward: (r - ρ0) / (1 - ρ0 - ρ1). Its mean is R: an unbiased reward, and so an unbiased policy gradient.
* Forward: ρ1 where accepted, ρ1 - 1 where refused. Its mean is (1 - ρ0 - ρ1) (R - 1): a gradient in the direction of
  the clean one, shorter by a positive factor, without dividing and without knowing ρ0.

What this cannot do: both are increasing affine functions of r. Where all answers share the same rates, subtracting a
group's mean takes the shift away, and dividing by its deviation the scale. They change learning where advantages do
not do that (`reinforce`, `gae`), where verifiers with different rates stand in one batch, and in weighted sums.
"""

from dataclasses import replace

from verifiers.nested import Around
from verifiers.options import one_of, real
from verifiers.records import ScoreRequest, Verdict


def backward(accepted: bool, false_positive: float, false_negative: float) -> float:
    """The backward correction: a reward whose mean over the verifier's errors is the true one."""
    return (accepted - false_positive) / (1.0 - false_positive - false_negative)


def forward(accepted: bool, false_negative: float) -> float:
    """The forward correction: a weight whose mean is (1 - ρ0 - ρ1) (R - 1)."""
    return false_negative if accepted else false_negative - 1.0


class NoiseCorrected(Around):
    """Replaces another verifier's reward by its correction; status and part `observed` keep what was seen."""

    name = "noise"

    def __init__(
        self,
        verifier: object = "math",
        false_positive: float = 0.0,
        false_negative: float = 0.0,
        correction: str = "backward",
    ) -> None:
        """Options.

        Args:
            verifier: The noisy one, with two outcomes: a name, or `{name: …, options: {…}}`.
            false_positive: ρ0, the share of wrong answers that it accepts.
            false_negative: ρ1, the share of right answers that it refuses.
            correction: `backward` or `forward`.
        """
        super().__init__(verifier)
        self._false_positive = real("false_positive", false_positive, 0, 1)
        self._false_negative = real("false_negative", false_negative, 0, 1)
        self._backward = one_of("correction", correction, ("backward", "forward")) == "backward"
        if self._false_positive + self._false_negative >= 1:
            raise ValueError(
                f"false_positive + false_negative must be below 1, got {false_positive:g} + {false_negative:g}: such a "
                "verifier says nothing, or the opposite; use another one"
            )
        self.version = f"1[{self._verifier}]"

    def score(self, request: ScoreRequest) -> Verdict:
        """The verdict with a corrected reward."""
        verdict = self._verifier.score(request)
        if verdict.reward is None:
            return replace(verdict, verifier=self.name, version=self.version)
        accepted = verdict.status == "correct"
        if self._backward:
            reward = backward(accepted, self._false_positive, self._false_negative)
        else:
            reward = forward(accepted, self._false_negative)
        parts = verdict.parts | {"observed": float(accepted)}
        return replace(verdict, reward=reward, verifier=self.name, version=self.version, parts=parts)
