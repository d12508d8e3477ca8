"""Which countdown problems a run trains on and which it is evaluated on: sets without a problem in common.

    3 numbers, 4 numbers…    in distribution: the sizes of `eval_numbers`
    harder                   out of distribution: 5 numbers, more than RL trains
    other form               out of distribution: the largest of `eval_numbers`, written `14=3,7,2,5:`

Every held-out set is made twice, from fixed seeds: settings are chosen on the validation split, results are told on
the test split. The problems of both are kept from training and from demonstrations, whichever is evaluated, so that
the choice changes nothing else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from rollout.config import CountdownConfig
from rollout.countdown import CountdownProblem, problems
from rollout.problems import RawProblem

Split = Literal["test", "validation"]

HARDER, OTHER_FORM = "harder", "other form"
HARDER_NUMBERS = 5
_SPLITS: dict[Split, int] = {"test": -1, "validation": -2}
"""Seeds; a run's own seed is never negative."""


@dataclass(frozen=True, slots=True)
class HeldOutSet:
    """Problems that are reported together."""

    split: Split
    tag: str
    problems: tuple[CountdownProblem, ...]
    other_form: bool = False
    """Whether the model sees them in the other form."""


def training_problems(config: CountdownConfig, seed: int) -> list[RawProblem]:
    """What RL trains on: none of the held-out problems, whatever the order of their numbers.

    Raises:
        ValueError: When there are not so many problems.
    """
    hidden = hidden_problems(config)
    shares = _shares(config.train_numbers, config.train_problems)
    return [problem.raw() for size, count in shares for problem in problems(size, count, seed, exclude=hidden)]


def held_out_problems(config: CountdownConfig) -> list[RawProblem]:
    """What is evaluated: the sets of the chosen split, one after the other."""
    chosen = [held_out for held_out in held_out_sets(config) if held_out.split == config.split]
    return [problem.raw(one.tag, one.other_form) for one in chosen for problem in one.problems]


def hidden_problems(config: CountdownConfig) -> list[CountdownProblem]:
    """What nothing is trained on: the sets of both splits."""
    return [problem for held_out in held_out_sets(config) for problem in held_out.problems]


def held_out_sets(config: CountdownConfig) -> list[HeldOutSet]:
    """All sets of both splits.

    Raises:
        ValueError: When there are not so many problems.
    """
    sets: list[HeldOutSet] = []
    taken: list[CountdownProblem] = []
    for split, seed in _SPLITS.items():
        for tag, size, count, other_form in _plan(config):
            made = problems(size, count, seed, exclude=taken)
            taken += made
            sets.append(HeldOutSet(split, tag, tuple(made), other_form))
    return sets


def _plan(config: CountdownConfig) -> Iterator[tuple[str, int, int, bool]]:
    """(tag, how many numbers, how many problems, whether in the other form) of each set."""
    for size, count in _shares(config.eval_numbers, config.eval_problems):
        yield f"{size} numbers", size, count, False
    yield HARDER, HARDER_NUMBERS, config.harder_problems, False
    yield OTHER_FORM, max(config.eval_numbers), config.other_form_problems, True


def _shares(sizes: tuple[int, ...], count: int) -> list[tuple[int, int]]:
    """`count` dealt out over `sizes` as evenly as possible."""
    return [(size, count // len(sizes) + (i < count % len(sizes))) for i, size in enumerate(sizes)]
