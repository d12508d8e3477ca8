"""Problems from a user's files: those to train on, by source, and held-out sets that have none of them.

A set is what evaluation reports by itself. `data.eval_path`, or the rows that are held out of the sources where it is
unset, are the set "held-out" (or of several sources each a set of its own), or the sets that a column of theirs names;
each of `data.eval_sets` is one of its own.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rollout.config import DataConfig, SetConfig
from rollout.data_errors import Complaints, DataError
from rollout.problems import RawProblem, load_problems
from rollout.prompts import comparable

HELD_OUT = "held-out"
"""The set of held-out problems that no column and no name assigns to another."""
_MAX_SHOWN = 5


@dataclass(frozen=True, slots=True)
class TrainingSource:
    """Training problems that are drawn together."""

    name: str
    weight: float | None
    """None: by how many problems it has."""
    problems: list[RawProblem]


@dataclass(frozen=True, slots=True)
class ProblemFiles:
    """What a user's files hold."""

    train: tuple[TrainingSource, ...]
    held_out: list[RawProblem]
    """With their sets as tags."""
    sets: tuple[tuple[str, list[RawProblem]], ...]
    """(name, problems) by where they come from: the sources, and held-out sets that are no part of them."""
    notes: tuple[str, ...]
    """A line per data set: its rows, and which columns are what."""
    skipped: tuple[str, ...]
    """What is wrong with the rows that were left out."""


def load_files(data: DataConfig, verifier: str = "", known: Collection[str] | None = None) -> ProblemFiles:
    """Training problems, and held-out ones with their sets as tags.

    Args:
        data: Where they are.
        verifier: The run's.
        known: Verifiers that rows may name, by the run's names for them; None: any.

    Raises:
        DataError: Naming what is wrong with each file, or problems that are in training and in a held-out set.
    """
    reader = _Reader(data.on_bad_row == "skip", verifier, known)
    sources = data.training_sources()
    train = [TrainingSource(source.called, source.weight, reader.read(source, source.limit)) for source in sources]
    if len(train) > 1:
        train = [
            replace(source, problems=[_named(p, source.name, p.tag or source.name) for p in source.problems])
            for source in train
        ]
    held_out = reader.read(data.held_out_set(data.eval_path)) if data.eval_path else []
    further = {name: reader.read(data.held_out_set(asked)) for name, asked in data.eval_sets.items()}
    reader.refuse()
    if data.eval_path is None:
        train, held_out = _split(train, data.eval_fraction)
    held_out = [replace(problem, tag=problem.tag or HELD_OUT) for problem in held_out]
    sets = [(source.name, source.problems) for source in train]
    sets += [(HELD_OUT, held_out)] if data.eval_path else []
    for name, problems in further.items():
        sets.append((name, [_named(problem, name, name) for problem in problems]))
        held_out = held_out + sets[-1][1]
    _refuse_overlap((problem for source in train for problem in source.problems), held_out)
    return ProblemFiles(tuple(train), held_out, tuple(sets), tuple(reader.notes), tuple(reader.skipped))


class _Reader:
    """Reads one set after the other, and keeps what is said of them."""

    def __init__(self, skip: bool, verifier: str, known: Collection[str] | None) -> None:
        self._skip = skip
        self._verifier = verifier
        self._known = known
        self._refused: list[str] = []
        self.notes: list[str] = []
        self.skipped: list[str] = []

    def read(self, asked: SetConfig, limit: int | None = None) -> list[RawProblem]:
        """The problems of a set; none when it cannot be used."""
        complaints = Complaints(self._skip)
        try:
            loaded = load_problems(asked, complaints, limit, self._verifier, self._known)
            self.skipped += complaints.settle()
        except DataError as error:
            self._refused += error.problems
            return []
        self.notes.append(loaded.note)
        return loaded.problems

    def refuse(self) -> None:
        if self._refused:
            raise DataError(self._refused)


def _named(problem: RawProblem, name: str, tag: str) -> RawProblem:
    """The problem under a name of its own among several sets."""
    return replace(problem, id=f"{name}/{problem.id}", tag=tag)


def _split(train: list[TrainingSource], fraction: float) -> tuple[list[TrainingSource], list[RawProblem]]:
    """(those to train on, those held out); a question that is there more than once is on one side only."""
    chosen: set[str] = set()
    seen: set[str] = set()
    for source in train:
        questions = list(dict.fromkeys(comparable(problem.question) for problem in source.problems))
        own = [question for question in questions if question not in seen]
        seen.update(own)
        order = np.random.default_rng(0).permutation(len(own))  # the same rows are held out in every run
        chosen.update(own[i] for i in order[: max(1, round(len(own) * fraction))])
    left = [
        replace(source, problems=[p for p in source.problems if comparable(p.question) not in chosen])
        for source in train
    ]
    sizes = {source.name: len(source.problems) for source in train}
    if empty := [source.name for source in left if not source.problems]:
        raise DataError(
            [
                f"{name}: {sizes[name]} problems do not split into training and held-out ones; add some, or set "
                "data.eval_path"
                for name in empty
            ]
        )
    return left, [p for source in train for p in source.problems if comparable(p.question) in chosen]


def _refuse_overlap(train: Iterable[RawProblem], held_out: Sequence[RawProblem]) -> None:
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
