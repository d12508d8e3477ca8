"""Which answers of a phase are its expert set: the rule, as a function of the index (RLoop 2511.04285, numbers ours).

Nothing here depends on the order in which groups came in, on other problems, or on chance: a lot is drawn by hash.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rollout.expert_index import ExpertIndex
from rollout.expert_report import ExpertReport

_PART = 1 << 18
"""Answers that are sorted at a time, more or less."""
_Ints = npt.NDArray[np.integer]
_Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ExpertRule:
    """What is kept of a phase: correct, whole answers to problems with 0 < s(x) ≤ `tau_hard`.

    s(x) is successes per scored attempt over the whole phase. Identical answers to a problem are kept once (the
    earliest), and at most `max_per_prompt` of each problem, drawn in turn from equal stretches of its steps, so that
    early and late policies are both present.
    """

    tau_hard: float
    max_per_prompt: int
    """K"""
    seed: int
    """Of the draw within a stretch."""
    last_steps: int = 0
    """Look at nothing but the groups that the last so many steps of the phase trained (of a phase that trains nothing,
    those that came in last, as many as such steps take); 0 for all of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The expert set."""

    kept: _Ints
    """[E] rows of the index's answers, in its order."""
    prompts: _Ints
    """[E] number of each one's problem."""
    success: npt.NDArray[np.float64]
    """[E] s(x) of it."""
    report: ExpertReport
    """Without the diversity, which takes the tokens."""


def choose(index: ExpertIndex, rule: ExpertRule) -> Choice:
    """Apply the rule."""
    steps = np.unique(index.groups["step"])[-rule.last_steps :]  # all of them for 0
    inside = np.isin(index.groups["step"], steps)
    groups = index.groups[inside]
    _, numbers = np.unique(groups["prompt"], return_inverse=True)
    attempts, successes = _per_prompt(numbers, groups["scored"]), _per_prompt(numbers, groups["correct"])
    rate = successes / np.maximum(attempts, 1)

    owner = np.full(len(index.groups), -1, np.int32)  # problem of each group, -1 for groups that are not looked at
    owner[inside] = numbers
    whole = np.flatnonzero(inside[index.answers["group"]])
    hard = whole[rate[owner[index.answers["group"][whole]]] <= rule.tau_hard]
    parts = [_first_of_each(index, part, owner) for part in _by_problems(hard, owner[index.answers["group"][hard]])]
    distinct = np.concatenate(parts)
    kept = np.sort(np.concatenate([_spread(index, part, owner, rule.max_per_prompt) for part in parts]))

    prompts = owner[index.answers["group"][kept]]
    per_prompt = np.bincount(prompts, minlength=len(rate))
    capped = np.bincount(owner[index.answers["group"][distinct]], minlength=len(rate)) > per_prompt
    report = ExpertReport(
        attempts=int(attempts.sum()),
        correct=int(successes.sum()),
        truncated=int(successes.sum()) - len(whole),
        too_easy=len(whole) - len(hard),
        duplicates=len(hard) - len(distinct),
        over_cap=len(distinct) - len(kept),
        kept=len(kept),
        tokens=int(index.answers["tokens"][kept].sum(dtype=np.int64)),
        prompts=int((attempts > 0).sum()),
        prompts_unsolved=int(((attempts > 0) & (successes == 0)).sum()),
        prompts_too_easy=int((rate > rule.tau_hard).sum()),
        prompts_capped=int(capped.sum()),
        prompts_kept=int((per_prompt > 0).sum()),
        per_step=_per_step(index, kept, steps),
        mean_success=float(rate[per_prompt > 0].mean()) if len(kept) else 0.0,
    )
    return Choice(kept, prompts, rate[prompts], report)


def _by_problems(answers: _Ints, prompts: _Ints) -> Iterator[_Ints]:
    """The answers in parts of whole problems: what is sorted at a time is small, however many there are."""
    problems = int(prompts.max(initial=0)) + 1
    width = max(1, problems * _PART // max(len(answers), 1))
    for low in range(0, problems, width):
        yield answers[(prompts >= low) & (prompts < low + width)]


def _first_of_each(index: ExpertIndex, answers: _Ints, owner: _Ints) -> _Ints:
    """The earliest of each distinct answer to a problem."""
    groups, digests = index.answers["group"][answers], index.answers["digest"][answers]
    prompts, age = owner[groups], (index.groups["epoch"][groups], index.groups["step"][groups])
    order = np.lexsort((index.answers["sample"][answers], *age, digests, prompts))
    return answers[order[_begins(prompts[order], digests[order])]]


def _spread(index: ExpertIndex, answers: _Ints, owner: _Ints, count: int) -> _Ints:
    """At most `count` of each problem, drawn in turn from `count` equal stretches of the steps that it has."""
    count = min(count, max(len(answers), 1))  # it may be as large as one likes
    prompts = owner[index.answers["group"][answers]]
    order = np.argsort(prompts, kind="stable")
    answers, prompts = answers[order], prompts[order]
    steps, lots = index.groups["step"][index.answers["group"][answers]], index.answers["digest"][answers]
    begins = np.flatnonzero(_begins(prompts))
    if not len(begins):
        return answers
    sizes = np.diff(begins, append=len(answers))
    first = np.repeat(np.minimum.reduceat(steps, begins), sizes)
    last = np.repeat(np.maximum.reduceat(steps, begins), sizes)
    stretches = (steps - first) * count // (last - first + 1)
    order = np.lexsort((lots, stretches, prompts))
    turn = np.empty(len(answers), np.int64)
    turn[order] = _places(_begins(prompts[order], stretches[order]))
    order = np.lexsort((lots, turn, prompts))
    return answers[order[_places(_begins(prompts[order])) < count]]


def _begins(*keys: np.ndarray) -> _Bools:
    """[N] where sorted rows differ in any key from the row before."""
    begins = np.ones(len(keys[0]), np.bool_)
    begins[1:] = np.logical_or.reduce([key[1:] != key[:-1] for key in keys])
    return begins


def _places(begins: _Bools) -> _Ints:
    """[N] place of each row in its run, from 0."""
    rows = np.arange(len(begins))
    return rows - np.maximum.accumulate(np.where(begins, rows, 0))


def _per_prompt(numbers: _Ints, counts: np.ndarray) -> _Ints:
    return np.bincount(numbers, weights=counts).astype(np.int64)


def _per_step(index: ExpertIndex, kept: _Ints, steps: np.ndarray) -> dict[int, int]:
    of = np.searchsorted(steps, index.groups["step"][index.answers["group"][kept]])
    return dict(zip(steps.tolist(), np.bincount(of, minlength=len(steps)).tolist(), strict=True))
