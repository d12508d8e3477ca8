"""From losses per token to one number, as a weight per token.

A weighted sum adds up over micro-batches and ranks, so the result depends neither on the split nor on the number of
ranks: everything global enters through `Totals`. A sequence never spans micro-batches.
"""

from dataclasses import dataclass

from torch import Tensor

from trainer.losses.options import Reduction
from trainer.losses.sequences import sequence_sum


@dataclass(frozen=True, slots=True)
class Totals:
    """Of one optimizer step, over all micro-batches of all ranks."""

    loss_tokens: int
    """N: tokens on the term's mask."""
    sequences: int
    """S: sequences with at least one of them."""
    max_tokens: int
    """The length that `constant` divides by: the most tokens that a response may have."""


def token_weights(
    reduction: Reduction, mask: Tensor, sequence_ids: Tensor, num_sequences: int, totals: Totals
) -> Tensor:
    """[T] float32 weights, 0 off the mask; the sum of weight × loss over everything is the reduction.

    * `token_mean`: sum / N. DAPO (2503.14476, eq. 8): long answers weigh more.
    * `sequence_mean`: mean over sequences of their token means. GRPO as written (2402.03300, eq. 3): every answer
      weighs the same, so each token of a long one weighs less.
    * `sequence_sum`: mean over sequences of their token sums.
    * `constant`: sum / (S × max_tokens). Dr.GRPO (2503.20783, section 3.2): as `sequence_sum`, scaled to be comparable
      with a mean.

    A term without any token has totals of 0 and weighs nothing.
    """
    weights = mask.float()
    tokens, sequences = max(totals.loss_tokens, 1), max(totals.sequences, 1)
    match reduction:
        case "token_mean":
            return weights / tokens
        case "sequence_mean":
            lengths = sequence_sum(weights, sequence_ids, num_sequences)
            return weights / (sequences * lengths.clamp(min=1.0)[sequence_ids])
        case "sequence_sum":
            return weights / sequences
        case "constant":
            return weights / (sequences * totals.max_tokens)
