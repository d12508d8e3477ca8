"""Entropy bonus: a term that keeps the policy from collapsing."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trainer.losses.inputs import LossInputs
from trainer.losses.options import Need, Reduction


@dataclass(frozen=True, slots=True)
class EntropyLoss:
    """-H(π_θ) per token over the whole vocabulary (1707.06347, eq. 9): a positive weight favours exploration."""

    needs: ClassVar[frozenset[Need]] = frozenset({"entropy_gradient"})
    reduction: Reduction = "token_mean"
    """How losses per token become one number."""

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per token; no statistics, as the loss says it all."""
        return -inputs.entropies.masked_fill(~inputs.mask, 0.0), {}
