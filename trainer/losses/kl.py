"""KL divergence to a reference model as a loss term, by Schulman's estimators (joschu.net/blog/kl-approx.html).

For a token sampled from π, all three estimate KL(π ‖ ref) from l = log ref - log π: k1 = -l (unbiased, high
variance), k2 = l²/2 (biased, low variance), k3 = eˡ - 1 - l (unbiased, low variance, never negative). As a *loss* only
the gradient counts, and that is another matter (2506.09477): the expected gradient of
* k2 is exactly that of KL(π ‖ ref): the right one;
* k3 is that of the other direction, KL(ref ‖ π); GRPO's (2402.03300, eq. 4), a fair stand-in near the reference;
* k1 is zero: it only adds noise, and belongs into the reward (see `AdvantageInputs.kl`).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trainer.losses.inputs import LossInputs
from trainer.losses.options import KLEstimator, Need, Reduction
from trainer.losses.ratios import bounded


@dataclass(frozen=True, slots=True)
class KLLoss:
    """k(log ref - log π_θ) per token, on sampled tokens without an importance weight."""

    needs: ClassVar[frozenset[Need]] = frozenset({"reference"})
    estimator: KLEstimator = "k2"
    """Which gradient; `k2` is that of the divergence."""
    reduction: Reduction = "token_mean"
    """How losses per token become one number."""

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per token and `reference_kl`, k3 whatever the loss."""
        assert inputs.reference is not None
        log_ratios = (inputs.reference - inputs.logprobs).masked_fill(~inputs.mask, 0.0)
        return ESTIMATORS[self.estimator](log_ratios), {"reference_kl": k3(log_ratios.detach()).sum()}


def k1(log_ratios: Tensor) -> Tensor:
    """-l"""
    return -log_ratios


def k2(log_ratios: Tensor) -> Tensor:
    """l² / 2"""
    return log_ratios.square() / 2


def k3(log_ratios: Tensor) -> Tensor:
    """eˡ - 1 - l, never negative; l is taken within ±20."""
    log_ratios = bounded(log_ratios)
    return log_ratios.expm1() - log_ratios


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}
