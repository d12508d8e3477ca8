"""Has a verifier judge many responses, some of them twice, and keeps what is worth knowing of it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.reference_check import is_enough, read_references, sentence
from cluster.settings import Refused
from verifiers.pool import VerifierProcesses
from verifiers.records import ScoreRequest, Verdict
from verifiers.spec import VerifierSpec

GIVEN, GOLD = "given", "gold"
"""Kinds of responses; the others are traps, by name."""
_AT_ONCE = 256  # handed to the pool together: progress is told after each
_LOOKED_AT = 64  # rows of each verifier whose references are tried first
_FLOOR = 0.95  # share of these that must be readable, as data.gold_floor
_MAX_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """One response to judge."""

    id: str
    """Of its row."""
    kind: str
    """`given`, `gold`, or the name of a trap."""
    request: ScoreRequest
    spec: VerifierSpec
    """Who judges it."""
    source: str = ""
    """Where the row is, e.g. `train.jsonl:17`; empty for an answer of a run."""


@dataclass(frozen=True, slots=True)
class Judged:
    """It, and what was said of it."""

    asked: Asked
    verdict: Verdict

    def line(self) -> dict[str, Any]:
        """As JSON."""
        v = self.verdict
        told = {"expected": v.expected, "rule": v.rule, "feedback": v.feedback, "isolation": v.isolation}
        return {
            "id": self.asked.id,
            "kind": self.asked.kind,
            "status": v.status,
            "reward": v.reward,
            "parts": v.parts,
            "seconds": v.milliseconds / 1e3,
            "verifier": v.verifier,
            "version": v.version,
            "extracted": v.answer,
            **{name: value for name, value in (told | {"facts": v.facts}).items() if value},
        }


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of all of them."""

    judged: Sequence[Judged]
    """In the order in which they were asked."""
    seconds: float
    """By the clock, without loading the verifier."""
    rechecked: int
    """Responses that were judged a second time."""
    disagreements: Sequence[tuple[Judged, Verdict]]
    """Those with another status or reward then, and the second verdict."""

    def of(self, kind: str) -> list[Judged]:
        """All of a kind."""
        return [one for one in self.judged if one.asked.kind == kind]

    def kinds(self) -> list[str]:
        """In order."""
        return list(dict.fromkeys(one.asked.kind for one in self.judged))


def judge_all(asked: Sequence[Asked], processes: int, recheck: float, told: Callable[[int], None]) -> Verification:
    """Judge them, then a share of them again, drawn by chance with a fixed seed. `told` hears how many are through.

    Raises:
        Refused: A verifier cannot read the references of these rows; names row and reference.
        VerifierUnavailable: The verifier cannot be loaded.
    """
    return asyncio.run(_judge_all(asked, processes, recheck, told))


def refuse_unread(asked: Sequence[Asked], processes: int) -> None:
    """Nothing, unless a verifier cannot read the references of these rows.

    Raises:
        Refused: It cannot; names row and reference.
        VerifierUnavailable: It cannot be loaded.
    """

    async def look() -> None:
        pool = VerifierProcesses(processes)
        try:
            await pool.start()
            await _refuse_unread(pool, asked, processes)
        finally:
            await pool.close()

    asyncio.run(look())


async def _judge_all(
    asked: Sequence[Asked], processes: int, recheck: float, told: Callable[[int], None]
) -> Verification:
    pool = VerifierProcesses(processes)
    try:
        await pool.start(list(dict.fromkeys(one.spec for one in asked)))
        await _refuse_unread(pool, asked, processes)
        began = time.perf_counter()
        verdicts = await _in_turn(pool, asked, told)
        seconds = time.perf_counter() - began
        again = np.flatnonzero(np.random.default_rng(0).random(len(asked)) < recheck).tolist()
        second = await _in_turn(pool, [asked[i] for i in again], lambda _: None)
    finally:
        await pool.close()
    judged = [Judged(one, verdict) for one, verdict in zip(asked, verdicts, strict=True)]
    differing = [
        (judged[i], verdict) for i, verdict in zip(again, second, strict=True) if _differ(verdicts[i], verdict)
    ]
    return Verification(judged, seconds, len(again), differing)


async def _refuse_unread(pool: VerifierProcesses, asked: Sequence[Asked], processes: int) -> None:
    specs = dict.fromkeys(one.spec for one in asked)
    if unread := [line for spec in specs for line in await _unread(pool, spec, asked, processes)]:
        raise Refused(unread)


async def _unread(pool: VerifierProcesses, spec: VerifierSpec, asked: Sequence[Asked], processes: int) -> list[str]:
    """What is wrong with the references of a sample of the rows; nothing where enough of them can be read."""
    rows = list({one.id: one for one in asked if one.spec == spec}.values())
    sample = [rows[i] for i in sorted(np.random.default_rng(0).permutation(len(rows))[:_LOOKED_AT])]
    found = await read_references(pool, spec, [one.request for one in sample], _FLOOR, processes)
    if is_enough(len(sample), found, _FLOOR):
        return []
    bad = [(one, verdict) for one, verdict in zip(sample, found, strict=False) if verdict is not None]
    return [
        f"{spec.name!r} can read {len(found) - len(bad)} of {len(found)} references: see whether they are the right "
        "column (--reference) and the verifier fits them (--verifier; docs/verifiers.md shows what each reads), mend "
        "or drop the rows",
        *(sentence(one.source or one.id, one.request.reference, verdict) for one, verdict in bad[:_MAX_SHOWN]),
    ]


async def _in_turn(pool: VerifierProcesses, asked: Sequence[Asked], told: Callable[[int], None]) -> list[Verdict]:
    """All verdicts. Two windows are under way, so that a slow answer of one does not leave the pool idle."""
    verdicts: list[Verdict] = []
    before: list[asyncio.Future[Verdict]] = []
    for start in range(0, len(asked) + 1, _AT_ONCE):
        window = [pool.submit(one.spec, [one.request])[0] for one in asked[start : start + _AT_ONCE]]
        verdicts += await asyncio.gather(*before)
        told(len(verdicts))
        before = window
    verdicts += await asyncio.gather(*before)
    told(len(verdicts))
    return verdicts


def _differ(first: Verdict, second: Verdict) -> bool:
    return (first.status, first.reward) != (second.status, second.reward)
