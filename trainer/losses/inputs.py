"""What a loss is computed from, and what a loss is."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from trainer.losses.options import Need, Reduction


@dataclass(frozen=True, slots=True, eq=False)
class LossInputs:
    """T tokens of several sequences laid end to end. Off the mask every value is finite and means nothing."""

    logprobs: Tensor
    """[T] of the sampled tokens under the policy in training, at the temperature they were sampled with; gradient."""
    entropies: Tensor
    """[T] of the policy's distributions, in nats; with gradient where a term needs `entropy_gradient`."""
    behaviour: Tensor
    """[T] log-probs under the weights that sampled, as the engine reported them."""
    proximal: Tensor
    """[T] log-probs under the policy that clipping is relative to; no gradient."""
    advantages: Tensor
    """[T]"""
    mask: Tensor
    """[T] bool: the tokens that this term trains."""
    sequence_ids: Tensor
    """[T] int64, ascending from 0 to `num_sequences` - 1."""
    num_sequences: int
    """Sequences in this micro-batch."""
    reference: Tensor | None = None
    """[T] log-probs under the reference model; given to terms that need `reference`."""
    values: Tensor | None = None
    """[T] the critic's estimate before each token, with gradient; given to terms that need `values`."""
    old_values: Tensor | None = None
    """[T] the same before the first update of this batch; no gradient."""
    returns: Tensor | None = None
    """[T] what the critic should have said."""


class LossTerm(Protocol):
    """One summand of an objective: a frozen dataclass whose fields are its hyper-parameters."""

    @property
    def needs(self) -> frozenset[Need]:
        """What must be in the inputs beyond what every term gets."""
        ...

    @property
    def reduction(self) -> Reduction:
        """How its losses per token become one number."""
        ...

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per token [T], 0 off the mask, and statistics.

        Statistics are sums over the mask, those named `*_max` maxima: micro-batches and ranks add up, and the sum
        divided by all tokens on the mask is the mean (of 0 and 1 for names in `_frac`). The names are always the same
        ones, in the same order: ranks add their statistics up by position.
        """
        ...
