"""The expert set of a phase: verified successes of *all* its steps, in favour of hard problems (RLoop 2511.04285).

A query over the journal, in two passes that stream: the first looks at verdicts and hashes, the second copies the
chosen answers. It needs no writer and keeps no book of its own.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from rollout.datasets import write_table
from rollout.events import PayloadRef, replay
from rollout.journal import read_payloads
from rollout.ledger import Ledger
from rollout.storage import Storage

_PROVENANCE = ("prompt_id", "epoch", "sample_index", "step")
_SCHEMA = pa.schema(
    [
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        ("prompt_id", pa.string()),
        ("epoch", pa.int64()),
        ("sample_index", pa.int32()),
        ("step", pa.int64()),
        ("version", pa.int32()),  # the newest that sampled one of its tokens
        ("reward", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class ExpertReport:
    """What was chosen."""

    candidates: int = 0
    """Correct, whole answers of the phase, before any choice."""
    kept: int = 0
    prompts: int = 0
    """Problems that contribute."""
    per_step: dict[int, int] = field(default_factory=dict)
    """RL step → answers kept from it."""
    mean_success: float = 0.0
    """Mean success rate s(x) of the contributing problems."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    prompt_id: str
    epoch: int
    sample_index: int
    step: int
    digest: bytes
    payload: PayloadRef
    row: int


def select_experts(
    journal: Storage, iteration: int, tau_hard: float, max_per_prompt: int, seed: int, out: Path
) -> ExpertReport:
    """Choose the expert set of an iteration's RL phase and write it as a supervised Parquet file.

    Kept are correct, whole answers to problems with success rate 0 < s(x) ≤ `tau_hard`, where s(x) is successes per
    scored attempt over the whole phase; identical answers to a problem once; at most `max_per_prompt` per problem,
    spread over the steps of the phase. Filtered, failed and stale groups count too: their answers are as verified as
    any.
    """
    refs = _phase_payloads(journal, iteration)
    attempts: Counter[str] = Counter()
    successes: Counter[str] = Counter()
    candidates: dict[str, list[_Candidate]] = defaultdict(list)
    total = 0
    for ref, batch in read_payloads(journal, refs):
        scored, correct, found = _look_at(ref, batch)
        prompt_id = batch["prompt_id"][0].as_py()
        attempts[prompt_id] += scored
        successes[prompt_id] += correct
        candidates[prompt_id] += found
        total += len(found)
    rate = {prompt_id: successes[prompt_id] / attempts[prompt_id] for prompt_id in attempts if successes[prompt_id]}
    kept: list[_Candidate] = []
    for prompt_id in sorted(rate):
        if rate[prompt_id] <= tau_hard:
            kept += _choose(_unique(candidates[prompt_id]), max_per_prompt, seed)
    write_table(out, _copy(journal, kept))
    prompts = sorted({c.prompt_id for c in kept})
    return ExpertReport(
        candidates=total,
        kept=len(kept),
        prompts=len(prompts),
        per_step=dict(sorted(Counter(c.step for c in kept).items())),
        mean_success=float(np.mean([rate[p] for p in prompts])) if prompts else 0.0,
    )


def _phase_payloads(journal: Storage, iteration: int) -> list[PayloadRef]:
    """Where the groups of the phase are: one place per group."""
    ledger = Ledger(replay(journal))
    return [
        entry.payload
        for key, entry in ledger.entries.items()
        if key.purpose == "train" and entry.iteration == iteration and entry.payload is not None
    ]


def _look_at(ref: PayloadRef, batch: pa.RecordBatch) -> tuple[int, int, list[_Candidate]]:
    """Scored attempts, correct answers, and candidates of one group."""
    columns = batch.select([*_PROVENANCE, "verdict_status", "status", "token_ids"])
    scored = correct = 0
    found = []
    for row in range(len(columns)):
        status = columns["verdict_status"][row].as_py()
        scored += status in ("correct", "wrong")
        correct += status == "correct"
        tokens = columns["token_ids"][row].values.to_numpy()
        if status == "correct" and columns["status"][row].as_py() == "finished" and len(tokens):
            prompt_id, epoch, sample_index, step = (columns[name][row].as_py() for name in _PROVENANCE)
            digest = hashlib.blake2b(tokens.tobytes(), digest_size=16).digest()
            found.append(_Candidate(prompt_id, epoch, sample_index, step, digest, ref, row))
    return scored, correct, found


def _unique(candidates: Iterable[_Candidate]) -> list[_Candidate]:
    """The first of each distinct answer, in order of the phase."""
    first: dict[bytes, _Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: (c.step, c.epoch, c.sample_index)):
        first.setdefault(candidate.digest, candidate)
    return list(first.values())


def _choose(candidates: list[_Candidate], count: int, seed: int) -> list[_Candidate]:
    """At most `count`, drawn in turn from equal stretches of the phase, so that early and late steps are present."""
    if len(candidates) <= count:
        return candidates
    prompt = hashlib.blake2b(candidates[0].prompt_id.encode(), digest_size=8).digest()
    rng = np.random.default_rng([seed, int.from_bytes(prompt, "big")])
    first, last = candidates[0].step, candidates[-1].step
    strata: dict[int, list[_Candidate]] = defaultdict(list)
    for i in rng.permutation(len(candidates)):
        strata[(candidates[i].step - first) * count // (last - first + 1)].append(candidates[i])
    chosen: list[_Candidate] = []
    while len(chosen) < count:
        for stratum in [s for s in strata.values() if s][: count - len(chosen)]:
            chosen.append(stratum.pop())
    return chosen


def _copy(journal: Storage, kept: list[_Candidate]) -> pa.Table:
    rows: dict[PayloadRef, list[int]] = defaultdict(list)
    for candidate in kept:
        rows[candidate.payload].append(candidate.row)
    return pa.Table.from_batches(list(_expert_rows(journal, rows)), _SCHEMA)


def _expert_rows(journal: Storage, rows: dict[PayloadRef, list[int]]) -> Iterator[pa.RecordBatch]:
    for ref, batch in read_payloads(journal, rows):
        taken = batch.take(pa.array(sorted(rows[ref])))
        source = {"response_ids": "token_ids", "version": "newest_version"}
        yield pa.record_batch([taken[source.get(name, name)] for name in _SCHEMA.names], schema=_SCHEMA)
