"""Importance weights: what to do about tokens that were sampled from another policy than the one that is trained.

Engine and learner never agree exactly, and rollouts may be some versions old. The weight corrects for that, and is
bounded, because the variance of an unbounded one grows without limit.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.losses.options import ImportanceMode
from trainer.losses.ratios import bounded
from trainer.losses.sequences import sequence_mean, sequence_sum


@dataclass(frozen=True, slots=True)
class ImportanceSampling:
    """How importance weights are formed and bounded."""

    mode: ImportanceMode = "tis"
    """`none`: 1. `tis`, `icepop`: the token's ratio. `sequence_…`: the product of the sequence's ratios.
    `geometric_mask`: the L-th root of that. `…tis` cuts at `cap`; the others drop (weight 0) outside [floor, cap]."""
    cap: float = 2.0
    """Highest weight; about 2 for tokens and sequences, closer to 1 for the geometric mean."""
    floor: float = 0.0
    """Lowest weight that is not dropped; unused by `none`, `tis` and `sequence_tis`."""
    veto: float = 0.0
    """A sequence with any token ratio below this is dropped, in every mode; 0 drops none."""


TOKEN_TIS = ImportanceSampling()

_CAPPING = ("tis", "sequence_tis")
_MASKING = ("icepop", "sequence_mask", "geometric_mask")


def importance_weights(
    policy: Tensor,
    behaviour: Tensor,
    mask: Tensor,
    sequence_ids: Tensor,
    num_sequences: int,
    sampling: ImportanceSampling,
) -> tuple[Tensor, dict[str, Tensor]]:
    """[T] weights for exp(policy - behaviour), without gradient and 0 off the mask, and their statistics.

    `policy` and `behaviour` are log-probs [T] without NaN. TIS caps (the truncated importance sampling of Ionides
    2008); IcePop masks (Ling Team 2510.18855). The weight is always the ratio that is bounded, over the loss tokens
    of a sequence where the mode is one of sequences. Dropped tokens stay in the denominator of the loss, so dropping
    never makes the rest of a batch weigh more.

    The effective sample size as a part of the tokens, (Σw)² / (n Σw²), is is_weight_mean² / is_weight_square_mean
    of the totals.
    """
    log_ratios = (policy.detach() - behaviour).masked_fill(~mask, 0.0)
    ratios = _judged(bounded(log_ratios), mask, sequence_ids, num_sequences, sampling.mode).exp()
    above, below = ratios > sampling.cap, ratios < sampling.floor
    clipped = above & (sampling.mode in _CAPPING)
    dropped = (above | below) & (sampling.mode in _MASKING)
    if sampling.veto > 0:
        vetoes = (log_ratios < math.log(sampling.veto)).to(ratios.dtype)
        dropped = dropped | (sequence_sum(vetoes, sequence_ids, num_sequences) > 0)[sequence_ids]
    weights = ratios.where(~clipped, sampling.cap).masked_fill(dropped | ~mask, 0.0)
    return weights, {
        "is_weight_mean": weights.sum(),
        "is_weight_square_mean": weights.square().sum(),
        "is_clipped_frac": (clipped & ~dropped & mask).sum(),
        "is_masked_frac": (dropped & mask).sum(),
    }


def _judged(log_ratios: Tensor, mask: Tensor, sequence_ids: Tensor, num_sequences: int, mode: ImportanceMode) -> Tensor:
    """[T] logarithm of the ratio that `mode` bounds."""
    match mode:
        case "none":
            return torch.zeros_like(log_ratios)
        case "tis" | "icepop":
            return log_ratios
        case "sequence_tis" | "sequence_mask":
            return bounded(sequence_sum(log_ratios, sequence_ids, num_sequences))[sequence_ids]
        case "geometric_mask":
            return sequence_mean(log_ratios, mask, sequence_ids, num_sequences)[sequence_ids]
