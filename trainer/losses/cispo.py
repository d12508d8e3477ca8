"""CISPO: policy gradient whose importance weight is clipped, so that no token loses its gradient."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trainer.losses.importance import TOKEN_TIS, ImportanceSampling, importance_weights
from trainer.losses.inputs import LossInputs
from trainer.losses.options import Need, Reduction
from trainer.losses.ratios import log_ratio


@dataclass(frozen=True, slots=True)
class CISPOLoss:
    """-w · sg(clip(r, 1 - clip_low, 1 + clip_high)) · A · log π_θ with r = π_θ / π_proximal (2506.13585, eqs. 4, 5).

    sg stops the gradient. Inside the clip the gradient is PPO's; outside PPO has none and this the bounded one.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    clip_low: float = 1.0
    """The ratio is clipped below 1 - clip_low; 1 disables this side, as in the paper."""
    clip_high: float = 0.28
    """The ratio is clipped above 1 + clip_high."""
    importance: ImportanceSampling = TOKEN_TIS
    """How w, the weight of π_proximal / π_behaviour, is bounded."""
    reduction: Reduction = "token_mean"
    """How losses per token become one number."""

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per token and statistics; `clip_frac` counts ratios outside the clip, whatever the advantage."""
        mask = inputs.mask
        weights, stats = importance_weights(
            inputs.proximal, inputs.behaviour, mask, inputs.sequence_ids, inputs.num_sequences, self.importance
        )
        ratio = log_ratio(inputs.logprobs.detach(), inputs.proximal, mask).exp()
        bounded = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        logprobs = inputs.logprobs.masked_fill(~mask, 0.0)
        return -weights * bounded * inputs.advantages * logprobs, stats | {"clip_frac": (ratio != bounded).sum()}
