"""Do the answers that a data set calls right score as correct? Asked of a sample of each set before a run starts.
Where there are no such answers: can the references be read?

It runs in the processes that score a run's answers, so a verifier that hangs or dies here is killed like there.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.config import RunConfig
from cluster.reference_check import is_enough, read_references, sentence
from cluster.settings import Refused
from rollout.data_errors import shown
from rollout.problem_files import ProblemFiles
from rollout.problems import RawProblem
from verifiers.catalogue import load
from verifiers.gold import gold_response
from verifiers.pool import VerifierProcesses, VerifierUnavailable
from verifiers.protocol import Verifier
from verifiers.records import ScoreRequest, Verdict
from verifiers.spec import VerifierSpec

_MAX_SHOWN = 5
_ROUND = 8  # answers per process and round: a set whose answers all hang is given up after a few of them


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """Problems that are checked together: of one source or held-out set, for one verifier."""

    name: str
    spec: VerifierSpec
    problems: Sequence[RawProblem]

    @property
    def verifier(self) -> str:
        """Its name."""
        return self.spec.name


@dataclass(frozen=True, slots=True)
class GoldCheck:
    """What came of one set."""

    set: ProblemSet
    scored: tuple[tuple[RawProblem, str, Verdict], ...]
    """(problem, gold answer, verdict); none where there are no gold answers."""
    unasked: int = 0
    """Gold answers that were not scored any more, because too many before them were rejected."""
    read: tuple[tuple[RawProblem, Verdict | None], ...] = ()
    """(problem without a gold answer, what any answer to it gets instead of a verdict: None where it gets one)."""

    @property
    def checked(self) -> int:
        """Gold answers that were scored."""
        return len(self.scored)

    @property
    def rejected(self) -> list[tuple[RawProblem, str, Verdict]]:
        """Those that are not correct."""
        return [one for one in self.scored if one[2].status != "correct"]

    @property
    def unread(self) -> list[tuple[RawProblem, Verdict]]:
        """Problems whose references cannot be read."""
        return [(problem, verdict) for problem, verdict in self.read if verdict is not None]

    def passes(self, floor: float) -> bool:
        """Whether enough of them score as correct, and enough references can be read."""
        accepted = not self.rejected or 1 - len(self.rejected) / self.checked >= floor
        return accepted and is_enough(len(self.read), [verdict for _, verdict in self.read], floor)

    def line(self) -> str:
        """For the plan."""
        name, verifier = self.set.name, self.set.verifier
        known = len(self.read) - len(self.unread)
        if not self.checked:
            return (
                f"{name}: {known} of {len(self.read)} references can be read by {verifier!r}, which makes no answer "
                "from them; data.response_key names a column of right responses"
            )
        accepted = self.checked - len(self.rejected)
        rest = f" ({self.unasked} more were not asked for)" if self.unasked else ""
        others = f"; {known} of {len(self.read)} references without one can be read" if self.read else ""
        return f"{name}: {accepted} of {self.checked} gold answers score as correct with {verifier!r}{rest}{others}"

    def rows(self) -> list[str]:
        """The rejected ones and those that cannot be read, five at most."""
        lines = [
            f"{_place(problem)}: gold answer {shown(gold)} is {verdict.status}"
            f"{f', {verdict.feedback}' if verdict.feedback else ''}"
            for problem, gold, verdict in self.rejected
        ]
        lines += [sentence(_place(problem), problem.answer, verdict) for problem, verdict in self.unread]
        more = len(lines) - _MAX_SHOWN
        return [*lines[:_MAX_SHOWN], *([f"and {more} more"] if more > 0 else [])]

    def refusal(self, floor: float) -> list[str]:
        """Why a run on this set does not start."""
        return [
            f"{self.line()}, and data.gold_floor={floor:g} asks for {floor:.0%}: a policy could not learn them; see "
            "whether data.answer_key is the reference and verifier.name fits it (docs/verifiers.md shows what it "
            "reads), mend or drop the rows, or start all the same with data.check_gold=0",
            *self.rows(),
        ]


def _place(problem: RawProblem) -> str:
    return f"{problem.source} (id {shown(problem.id)})"


def gold_checks(config: RunConfig, files: ProblemFiles) -> list[GoldCheck]:
    """Every set of a run's data, as `data.check_gold` says; nothing where that is 0.

    Raises:
        Refused: When a verifier cannot be loaded where answers are scored.
    """
    data = config.data
    if not data.check_gold:
        return []
    sets = problem_sets(files, config.verifier_specs())
    try:
        return check_gold(sets, data.check_gold, data.gold_floor, config.cluster.seed, config.verifier.processes)
    except VerifierUnavailable as error:
        raise Refused([f"verifier: {error}"]) from None


def problem_sets(files: ProblemFiles, specs: Mapping[str, VerifierSpec]) -> list[ProblemSet]:
    """The data sets of a run, parted by the verifiers of their rows, which are in `specs`."""
    parts: dict[tuple[str, VerifierSpec], list[RawProblem]] = {}
    for name, problems in files.sets:
        for problem in problems:
            parts.setdefault((name, specs[problem.verifier]), []).append(problem)
    return [ProblemSet(name, spec, problems) for (name, spec), problems in parts.items()]


def check_gold(sets: Sequence[ProblemSet], count: int, floor: float, seed: int, processes: int) -> list[GoldCheck]:
    """Look at up to `count` problems of each set, drawn with `seed`. A set that cannot pass any more is left.

    Raises:
        VerifierUnavailable: When a verifier cannot be loaded in its process.
    """
    return asyncio.run(_check(sets, count, floor, seed, processes))


async def _check(sets: Sequence[ProblemSet], count: int, floor: float, seed: int, processes: int) -> list[GoldCheck]:
    pool = VerifierProcesses(processes)
    try:
        await pool.start()
        return [await _check_set(pool, one, _sample(one, count, seed), floor, processes) for one in sets]
    finally:
        await pool.close()


async def _check_set(
    pool: VerifierProcesses,
    one: ProblemSet,
    problems: Sequence[RawProblem],
    floor: float,
    processes: int,
) -> GoldCheck:
    verifier = load(one.spec.name, one.spec.arguments)
    answers = [(problem, gold_of(problem, verifier)) for problem in problems]
    golds = [(problem, gold) for problem, gold in answers if gold is not None]
    others = [problem for problem, gold in answers if gold is None]
    scored: list[tuple[RawProblem, str, Verdict]] = []
    rejected = 0
    while len(scored) < len(golds) and 1 - rejected / len(golds) >= floor:
        batch = golds[len(scored) : len(scored) + _ROUND * processes]
        verdicts = await pool.score(one.spec, [gold_request(*gold) for gold in batch])
        scored += [(*gold, verdict) for gold, verdict in zip(batch, verdicts, strict=True)]
        rejected += sum(verdict.status != "correct" for verdict in verdicts)
    found = await read_references(pool, one.spec, [gold_request(problem, "") for problem in others], floor, processes)
    read = tuple(zip(others, found, strict=False))  # fewer are found where too many cannot be read
    return GoldCheck(one, tuple(scored), len(golds) - len(scored), read)


def _sample(one: ProblemSet, count: int, seed: int) -> list[RawProblem]:
    """Up to `count` problems, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(one.problems))[:count]
    return [one.problems[i] for i in sorted(chosen)]


def gold_of(problem: RawProblem, verifier: Verifier) -> str | None:
    """The response that must score as correct."""
    return gold_response(verifier, problem.answer, problem.response)


def gold_request(problem: RawProblem, gold: str) -> ScoreRequest:
    """The question to the verifier."""
    extras = json.loads(problem.extras or "{}")
    return ScoreRequest(problem.question, gold, problem.answer, extras=extras, verifier=problem.verifier)
