"""GSPO: the clipped surrogate with one ratio for a whole sequence."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trainer.losses.importance import TOKEN_TIS, ImportanceSampling, importance_weights
from trainer.losses.inputs import LossInputs
from trainer.losses.options import Need, Reduction
from trainer.losses.ppo import clipped_surrogate
from trainer.losses.ratios import log_ratio
from trainer.losses.sequences import sequence_mean


@dataclass(frozen=True, slots=True)
class GSPOLoss:
    """-w · min(s·A, clip(s)·A), s = exp(mean log r) over a sequence's tokens (2507.18071, eqs. 5 to 7).

    This is the paper's token form (GSPO-token, section 4.3): the value of s, and the gradient of the token's own
    log-prob. With one advantage per sequence, as in GSPO, the loss is the same and so is the gradient under every
    reduction here, that is s·A/L for each of L tokens under `sequence_mean`; advantages may also differ by token.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    clip_low: float = 3e-4
    """s is clipped below 1 - clip_low; far narrower than PPO's, because s is a geometric mean."""
    clip_high: float = 4e-4
    """s is clipped above 1 + clip_high."""
    importance: ImportanceSampling = TOKEN_TIS
    """How the weight of π_proximal / π_behaviour is bounded."""
    reduction: Reduction = "sequence_mean"
    """How losses per token become one number; the paper's by default."""

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per token and statistics; `clip_frac` counts the tokens of clipped sequences."""
        mask, ids, count = inputs.mask, inputs.sequence_ids, inputs.num_sequences
        weights, stats = importance_weights(inputs.proximal, inputs.behaviour, mask, ids, count, self.importance)
        logprobs = inputs.logprobs.masked_fill(~mask, 0.0)
        log_ratios = log_ratio(inputs.logprobs.detach(), inputs.proximal, mask)
        log_s = sequence_mean(log_ratios, mask, ids, count)[ids]
        ratio = (log_s + (logprobs - logprobs.detach())).exp()
        loss, clipped = clipped_surrogate(ratio, inputs.advantages * mask, self.clip_low, self.clip_high)
        return weights * loss, stats | {"clip_frac": clipped.sum()}
