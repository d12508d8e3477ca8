"""Negative log-likelihood: supervised fine-tuning, and RLoop's on verified successes (RFT, 2511.04285)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trainer.losses.inputs import LossInputs
from trainer.losses.options import Need, Reduction


@dataclass(frozen=True, slots=True)
class NLLLoss:
    """-log π_θ of the tokens on the mask; neither advantages nor behaviour play a part."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    reduction: Reduction = "token_mean"
    """How losses per token become one number."""

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per token; no statistics, as the loss says it all."""
        return -inputs.logprobs.masked_fill(~inputs.mask, 0.0), {}
