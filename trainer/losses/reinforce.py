"""REINFORCE with a bounded importance weight: the plain policy gradient, off-policy."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trainer.losses.importance import TOKEN_TIS, ImportanceSampling, importance_weights
from trainer.losses.inputs import LossInputs
from trainer.losses.options import Need, Reduction


@dataclass(frozen=True, slots=True)
class ReinforceLoss:
    """-w · A · log π_θ, w the bounded weight of π_θ / π_behaviour without gradient (w = 1 in Williams 1992).

    The proximal policy plays no part: with one update per batch it would be π_θ itself.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    importance: ImportanceSampling = TOKEN_TIS
    """How w is bounded; `none` is REINFORCE as if the batch were on-policy."""
    reduction: Reduction = "token_mean"
    """How losses per token become one number."""

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per token and statistics."""
        weights, stats = importance_weights(
            inputs.logprobs,
            inputs.behaviour,
            inputs.mask,
            inputs.sequence_ids,
            inputs.num_sequences,
            self.importance,
        )
        return -weights * inputs.advantages * inputs.logprobs.masked_fill(~inputs.mask, 0.0), stats
