"""Sums and means over the sequences of packed tokens.

On GPUs the order of additions is fixed only under `torch.use_deterministic_algorithms`.
"""

from torch import Tensor


def sequence_sum(x: Tensor, sequence_ids: Tensor, num_sequences: int) -> Tensor:
    """[S] sum of x [T] over all tokens of each sequence."""
    return x.new_zeros(num_sequences).index_add(0, sequence_ids, x)


def sequence_mean(x: Tensor, mask: Tensor, sequence_ids: Tensor, num_sequences: int) -> Tensor:
    """[S] mean of x [T] over the masked tokens of each sequence; 0 for one without."""
    counts = sequence_sum(mask.to(x.dtype), sequence_ids, num_sequences)
    return sequence_sum(x.masked_fill(~mask, 0.0), sequence_ids, num_sequences) / counts.clamp(min=1.0)
