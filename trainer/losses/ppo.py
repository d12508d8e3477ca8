"""The clipped surrogate of PPO, GRPO and DAPO, and with importance weights that of decoupled PPO."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trainer.losses.importance import TOKEN_TIS, ImportanceSampling, importance_weights
from trainer.losses.inputs import LossInputs
from trainer.losses.options import Need, Reduction
from trainer.losses.ratios import log_ratio


@dataclass(frozen=True, slots=True)
class PPOLoss:
    """-w · min(r·A, clip(r, 1 - clip_low, 1 + clip_high)·A) with r = π_θ / π_proximal (1707.06347, eq. 7).

    Clip-higher and the token mean are DAPO's (2503.14476, eq. 8). w is the bounded weight π_proximal / π_behaviour of
    decoupled PPO (AReaL 2505.24298, section 5.2). Left out on purpose: a KL term, which is a term of its own.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    clip_low: float = 0.2
    """The ratio is clipped below 1 - clip_low."""
    clip_high: float = 0.28
    """The ratio is clipped above 1 + clip_high."""
    dual_clip: float | None = None
    """Bound, above 1, of the ratio where the advantage is negative (1912.09729); None for no bound."""
    importance: ImportanceSampling = TOKEN_TIS
    """How w is bounded."""
    reduction: Reduction = "token_mean"
    """How losses per token become one number."""

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per token and statistics; `clip_frac` counts tokens whose gradient the clip takes away."""
        weights, stats = importance_weights(
            inputs.proximal,
            inputs.behaviour,
            inputs.mask,
            inputs.sequence_ids,
            inputs.num_sequences,
            self.importance,
        )
        ratio = log_ratio(inputs.logprobs, inputs.proximal, inputs.mask).exp()
        loss, clipped = clipped_surrogate(ratio, inputs.advantages, self.clip_low, self.clip_high)
        stats["clip_frac"] = clipped.sum()
        if self.dual_clip is not None:
            bad = inputs.advantages < 0
            stats["dual_clip_frac"] = ((ratio > self.dual_clip) & bad).sum()
            loss = loss.minimum((-self.dual_clip * inputs.advantages).where(bad, loss))
        return weights * loss, stats


def clipped_surrogate(ratio: Tensor, advantages: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """-min(r·A, clip(r, 1 - low, 1 + high)·A) [T], and where the clip is the smaller of the two [T] bool."""
    loss = -(ratio * advantages).minimum(ratio.clamp(1 - low, 1 + high) * advantages)
    clipped = ((ratio > 1 + high) & (advantages > 0)) | ((ratio < 1 - low) & (advantages < 0))
    return loss, clipped
