"""The critic's loss in PPO."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trainer.losses.inputs import LossInputs
from trainer.losses.options import Need, Reduction


@dataclass(frozen=True, slots=True)
class ValueLoss:
    """½·max((V - R)², (clip(V, V_old - clip, V_old + clip) - R)²).

    The squared error is 1707.06347, eq. 9; the clip is not in the paper but in its authors' implementation, and
    takes the gradient from values that have already moved by `clip` in the right direction.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"values"})
    clip: float | None = 0.2
    """How far a value may move in one batch; None for the plain squared error."""
    reduction: Reduction = "token_mean"
    """How losses per token become one number."""

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per token and statistics; `value_clip_frac` counts tokens where the clipped error is the larger."""
        assert inputs.values is not None
        assert inputs.old_values is not None
        assert inputs.returns is not None
        plain = (inputs.values - inputs.returns).masked_fill(~inputs.mask, 0.0).square()
        if self.clip is None:
            return plain / 2, {}
        near = inputs.values.clamp(inputs.old_values - self.clip, inputs.old_values + self.clip)
        clipped = (near - inputs.returns).masked_fill(~inputs.mask, 0.0).square()
        return plain.maximum(clipped) / 2, {"value_clip_frac": (clipped > plain).sum()}
