"""How different the kept answers to one problem are: 1 - mean Jaccard similarity of their token 4-grams.

The mean is over all pairs of kept answers to the same problem. Of a big expert set it is over a sample that follows
from the seed: at most 1,000 problems, of each at most 16 answers, all together at most 16 M tokens.
"""

from collections import defaultdict
from collections.abc import Iterable
from itertools import combinations

import numpy as np
import numpy.typing as npt

from rollout.expert_index import ExpertIndex
from rollout.expert_rule import Choice
from rollout.ngrams import jaccard, ngrams

N = 4
"""Tokens per n-gram; a shorter answer is one n-gram."""
_PROBLEMS = 1_000
_ANSWERS = 16
_TOKENS = 16 << 20


def sample(index: ExpertIndex, choice: Choice, seed: int) -> npt.NDArray[np.int64]:
    """The places in `choice.kept`, in order, of the answers that are compared."""
    lots = index.answers["digest"][choice.kept]
    order = np.lexsort((lots, choice.prompts))
    _, begins, sizes = np.unique(choice.prompts[order], return_index=True, return_counts=True)
    compared: list[np.ndarray] = []
    tokens = 0
    for problem in np.random.default_rng(seed).permutation(np.flatnonzero(sizes > 1))[:_PROBLEMS]:
        answers = order[begins[problem] :][: min(sizes[problem], _ANSWERS)]
        tokens += int(index.answers["tokens"][choice.kept[answers]].sum())
        if compared and tokens > _TOKENS:
            break
        compared.append(answers)
    return np.sort(np.concatenate(compared)) if compared else np.empty(0, np.int64)


def diversity(answers: Iterable[tuple[int, npt.NDArray[np.int32]]]) -> float | None:
    """1 - mean similarity over all pairs of answers, given as (problem, tokens); None when there is no pair."""
    by_problem: defaultdict[int, list[np.ndarray]] = defaultdict(list)
    for problem, tokens in answers:
        by_problem[problem].append(ngrams(tokens, N))
    pairs = [jaccard(a, b) for grams in by_problem.values() for a, b in combinations(grams, 2)]
    return 1 - float(np.mean(pairs)) if pairs else None
