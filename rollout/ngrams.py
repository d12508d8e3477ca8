"""How alike two answers are: their sets of token n-grams, and the share of these that both have."""

import numpy as np
import numpy.typing as npt

Grams = npt.NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((30, np.uint64(0xBF58476D1CE4E5B9)), (27, np.uint64(0x94D049BB133111EB)))


def ngrams(tokens: npt.NDArray[np.integer], n: int) -> Grams:
    """The distinct n-grams of an answer, as sorted 64-bit hashes; of one with fewer than `n` tokens the whole answer.

    Args:
        tokens: [L] token ids, not negative and below 2^32.
        n: Tokens per n-gram, at least 1.

    Returns:
        [≤ max(1, L - n + 1)]; nothing for an answer without tokens.
    """
    size = min(n, len(tokens))
    if not size:
        return np.empty(0, np.uint64)
    ids = np.asarray(tokens).astype(np.uint64)
    hashes = np.full(len(ids) - size + 1, size << 32, np.uint64)  # a short answer is no n-gram of a long one
    for offset in range(size):
        hashes = _mixed(hashes ^ ids[offset : offset + len(hashes)])
    return np.unique(hashes)


def jaccard(a: Grams, b: Grams) -> float:
    """|a ∩ b| / |a ∪ b| of two sets as `ngrams` gives them: 1 for equal sets, two empty ones included."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    either = len(a) + len(b) - both
    return both / either if either else 1.0


def _mixed(hashes: Grams) -> Grams:
    """A bijection of 64-bit numbers that looks random (splitmix64); wraps around on purpose."""
    hashes = hashes + _STEP
    for shift, factor in _MIX:
        hashes = (hashes ^ (hashes >> np.uint64(shift))) * factor
    return hashes ^ (hashes >> np.uint64(31))
