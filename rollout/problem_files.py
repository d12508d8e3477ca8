"""Problems from a user's files: those to train on, and held-out sets that have none of them.

A set is what evaluation reports by itself. `data.eval_path`, or the rows of `data.path` that are held out where it is
unset, are the set "held-out", or the sets that a column of theirs names; each of `data.eval_sets` is one of its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rollout.config import DataConfig
from rollout.prompts import DataError, RawProblem, comparable, load_prompts

HELD_OUT = "held-out"
"""The set of held-out problems that no column and no name assigns to another."""
_MAX_SHOWN = 5


def load_files(data: DataConfig) -> tuple[list[RawProblem], list[RawProblem]]:
    """Training problems, and held-out ones with their sets as tags.

    Raises:
        DataError: Naming what is wrong with each file, or problems that are in training and in a held-out set.
    """
    assert data.path is not None  # cluster.rules has seen to it
    complaints: list[str] = []
    train = _load(data, data.path, complaints, data.limit)
    held_out = _load(data, data.eval_path, complaints) if data.eval_path else []
    further = {name: _load(data, path, complaints) for name, path in data.eval_sets.items()}
    if complaints:
        raise DataError(complaints)
    if data.eval_path is None:
        train, held_out = _split(train, data.eval_fraction, data.path)
    held_out = [replace(problem, tag=problem.tag or HELD_OUT) for problem in held_out]
    for name, problems in further.items():
        held_out += [replace(problem, id=f"{name}/{problem.id}", tag=name) for problem in problems]
    _refuse_overlap(train, held_out)
    return train, held_out


def _load(data: DataConfig, path: Path, complaints: list[str], limit: int | None = None) -> list[RawProblem]:
    try:
        return load_prompts(path, data.question_key, data.answer_key, data.id_key, limit, data.tag_key)
    except DataError as error:
        complaints += error.problems
        return []


def _split(problems: list[RawProblem], fraction: float, path: Path) -> tuple[list[RawProblem], list[RawProblem]]:
    """(those to train on, those held out); a question that is there more than once is on one side only."""
    questions = list({comparable(problem.question): None for problem in problems})
    order = np.random.default_rng(0).permutation(len(questions))  # the same rows are held out in every run
    count = max(1, round(len(questions) * fraction))
    if count >= len(questions):
        raise DataError(
            [
                f"{path}: {len(questions)} problems do not split into training and held-out ones; add some, or set "
                "data.eval_path"
            ]
        )
    chosen = {questions[i] for i in order[:count]}
    train = [problem for problem in problems if comparable(problem.question) not in chosen]
    return train, [problem for problem in problems if comparable(problem.question) in chosen]


def _refuse_overlap(train: Sequence[RawProblem], held_out: Sequence[RawProblem]) -> None:
    """Equal up to white space, case and the composition of characters is the same problem, whatever its answer."""
    trained = {comparable(problem.question): problem for problem in train}
    both = [(problem, trained[key]) for problem in held_out if (key := comparable(problem.question)) in trained]
    if not both:
        return
    sentences = [
        f"{problem.source} (set {problem.tag!r}) is also the training problem {twin.source}: "
        f"{problem.question[:60]!r}; what is trained on tells nothing when it is held out: drop one of the two"
        for problem, twin in both[:_MAX_SHOWN]
    ]
    raise DataError([*sentences, *([f"{len(both)} problems in all"] if len(both) > _MAX_SHOWN else [])])
