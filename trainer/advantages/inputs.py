"""What advantages are computed from, and what they are."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rollout.records import BoolArray, FloatArray, IntArray

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class AdvantageInputs:
    """The whole batch of one optimizer step: S sequences, N tokens laid end to end."""

    rewards: FloatArray
    """[S]"""
    group_ids: IntArray
    """[S] siblings share an id; they need not be neighbours."""
    lengths: IntArray
    """[S] tokens per sequence, prompt included; sums to N."""
    mask: BoolArray
    """[N] True on loss tokens."""
    values: FloatArray | None = None
    """[N] the critic's estimate before each token."""
    kl: FloatArray | None = None
    """[N] KL to the reference per token times its coefficient; taken off the reward of that token."""

    @property
    def loss_lengths(self) -> IntArray:
        """[S] loss tokens per sequence."""
        sequences_N = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return np.bincount(sequences_N[self.mask], minlength=len(self.lengths)).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Advantages:
    """What the policy and the critic are trained towards."""

    tokens: FloatArray
    """[N] advantage of each token, 0 off the mask."""
    returns: FloatArray | None = None
    """[N] targets of the critic, 0 off the mask; None without one."""

    @classmethod
    def of_sequences(cls, advantages: npt.NDArray[np.floating], inputs: AdvantageInputs) -> "Advantages":
        """Every loss token gets the advantage [S] of its sequence."""
        tokens_N = np.repeat(advantages, inputs.lengths) * inputs.mask
        return cls(tokens_N.astype(np.float32))

    @classmethod
    def of_loss_tokens(cls, advantages: npt.NDArray[np.floating], inputs: AdvantageInputs) -> "Advantages":
        """From one advantage per loss token [M], in order."""
        return cls(scatter(advantages, inputs.mask))


AdvantageFn = Callable[[AdvantageInputs], Advantages]


def scatter(of_loss_tokens: npt.NDArray[np.floating], mask: BoolArray) -> FloatArray:
    """[N] float32 with the given values [M] where the mask [N] is True and 0 elsewhere."""
    tokens_N = np.zeros(len(mask), np.float32)
    tokens_N[mask] = of_loss_tokens
    return tokens_N
