"""How an RL phase changes what its policy does with the same problems: what it forgets, and how it narrows.

A visit is one group of a problem. Both are over the problems that the phase has visited twice or more:

    forgetting            |solved on an earlier visit, not on the latest| / |solved on an earlier visit|
    inter_step_diversity  1 - mean Jaccard similarity of token 4-grams between answers of the two latest visits

The latter is 0 where a policy repeats itself and 1 where no four tokens of it recur. Plain bookkeeping, a fold over the
groups of the phase in the order in which they came in.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rollout.ngrams import Grams, ngrams
from rollout.records import IntArray

_N = 4  # tokens of an n-gram
_ANSWERS = 4  # of a visit that are compared
_SKETCH = 64  # smallest hashes that are kept of an answer: Jaccard is exact up to so many n-grams, then estimated


@dataclass(slots=True)
class _Problem:
    step: int
    solved: bool
    """On the latest visit."""
    answers: list[Grams]
    """Of the latest visit."""
    once_solved: bool = False
    """On a visit before the latest."""
    distance: float | None = None
    """Between the two latest visits of different steps."""


class Drift:
    """What a phase remembers of each problem."""

    def __init__(self) -> None:
        self._problems: dict[str, _Problem] = {}

    def see(self, prompt_id: str, step: int, solved: bool, answers: Iterable[IntArray]) -> None:
        """A group came in. One in which no answer has a verdict says nothing.

        Args:
            prompt_id: Its problem.
            step: Which step of the phase it counts to.
            solved: Whether one of its answers is correct.
            answers: [L] token ids of each that has a verdict; the first few are looked at.
        """
        sketches = [_sketch(tokens) for tokens in itertools.islice(answers, _ANSWERS)]
        if not sketches:
            return
        known = self._problems.get(prompt_id)
        if known is None:
            self._problems[prompt_id] = _Problem(step, solved, sketches)
            return
        known.once_solved |= known.solved
        if step != known.step:
            known.distance = 1 - float(np.mean([_alike(a, b) for a in sketches for b in known.answers]))
        known.step, known.solved, known.answers = step, solved, sketches

    def metrics(self) -> dict[str, float]:
        """Of the problems visited so far; what no problem can tell is absent."""
        problems = self._problems.values()
        once = [problem for problem in problems if problem.once_solved]
        distances = [problem.distance for problem in problems if problem.distance is not None]
        found = {}
        if once:
            found["forgetting"] = sum(not problem.solved for problem in once) / len(once)
        if distances:
            found["inter_step_diversity"] = float(np.mean(distances))
        return found


def _sketch(tokens: IntArray) -> Grams:
    return ngrams(tokens, _N)[:_SKETCH].copy()  # a view would keep all of them


def _alike(a: Grams, b: Grams) -> float:
    """Jaccard similarity from the smallest hashes of two sets (bottom-k sketch: of their union, those in both)."""
    union = np.union1d(a, b)[:_SKETCH]
    both = np.intersect1d(a, b, assume_unique=True)
    return float(np.isin(union, both).mean()) if len(union) else 1.0
