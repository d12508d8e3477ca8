"""maj@k: how often the answer that most of k answers agree on is right, estimated from n answers without drawing anew.

k of the n answers with a verdict are drawn without replacement. Whoever has the most votes among them wins; a tie is
won by each with equal chance. The winner counts as the share of its votes that were judged correct: 1 or 0, unless
the verifier judges more than the final answer.
"""

from collections.abc import Sequence
from functools import cache
from math import comb

import numpy as np
import numpy.typing as npt

_EXACT_UP_TO = 16  # k; beyond, the exact sum takes tens of milliseconds per problem
_DRAWS = 2_000

Floats = npt.NDArray[np.float64]


def majority_at_k(votes: Sequence[int], right: Sequence[int], k: int) -> float:
    """Expected correctness of the majority's answer among k of the sum(votes) answers.

    Exact to rounding for k up to 16 and for all answers at once; else the mean over 2,000 random subsets, the same ones
    for the same votes, with a standard error of at most 0.011.

    Args:
        votes: [A] answers that gave each distinct final answer, all positive.
        right: [A] how many of these were judged correct.
        k: At least 1, at most sum(votes).

    Raises:
        ValueError: When k is out of these bounds.
    """
    if not 1 <= k <= sum(votes):
        raise ValueError(f"maj@k needs 1 <= k <= votes, got k={k} and {sum(votes)} votes; draw more or use a smaller k")
    votes_A = np.array(votes)
    share_A = np.array(right) / votes_A
    if share_A.min() == share_A.max():  # whoever wins
        return float(share_A[0])
    if k == votes_A.sum():
        return float(share_A[votes_A == votes_A.max()].mean())
    if k > _EXACT_UP_TO:
        return float(_estimated_chances(votes_A, k) @ share_A)
    counts = set(votes_A[share_A > 0].tolist())
    return float(sum(_chance(votes_A, count, k) * share_A[votes_A == count].sum() for count in counts))


def _chance(votes: npt.NDArray[np.int64], count: int, k: int) -> float:
    """Chance that one certain answer with `count` votes wins.

    Sums over w, the votes it has among the k, and over t, how many others tie with it: the others' draws are counted
    by a product of polynomials whose power of x is the number of votes drawn and whose power of y is t. A win with t
    ties counts 1 / (t + 1), the integral of y^t over [0, 1], taken by Gauss-Legendre nodes enough to be exact.
    """
    y_Q, weight_Q = _nodes(k)
    w_W = np.arange(1, min(count, k) + 1)
    ways_WQX = np.zeros((len(w_W), len(y_Q), k + 1))
    ways_WQX[..., 0] = 1.0
    others = votes.tolist()
    others.remove(count)
    for other in others:
        grown = np.zeros_like(ways_WQX)
        for drawn in range(min(other, len(w_W)) + 1):
            factor_WQ = comb(other, drawn) * np.where(w_W[:, None] == drawn, y_Q, w_W[:, None] > drawn)
            grown[..., drawn:] += factor_WQ[..., None] * ways_WQX[..., : k + 1 - drawn]
        ways_WQX = grown
    wins = sum(comb(count, w) * float(ways_WQX[w - 1, :, k - w] @ weight_Q) for w in w_W.tolist())
    return wins / comb(int(votes.sum()), k)


@cache
def _nodes(k: int) -> tuple[Floats, Floats]:
    """[Q] nodes and weights that integrate polynomials over [0, 1] exactly, up to degree k - 1."""
    nodes, weights = np.polynomial.legendre.leggauss((k + 1) // 2)
    return (nodes + 1) / 2, weights / 2


def _estimated_chances(votes: npt.NDArray[np.int64], k: int) -> Floats:
    """[A] each answer's chance to win. The votes are the seed: problems with others have errors of their own."""
    random = np.random.default_rng([k, *votes])
    drawn_DA = random.multivariate_hypergeometric(votes, k, size=_DRAWS, method="marginals")
    wins_DA = drawn_DA == drawn_DA.max(axis=1, keepdims=True)
    return np.mean(wins_DA / wins_DA.sum(axis=1, keepdims=True), axis=0)
