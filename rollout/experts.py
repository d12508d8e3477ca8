"""The expert set of a phase: verified successes of *all* its steps, in favour of hard problems (RLoop 2511.04285).

A query over the journal, in two passes that stream: the first makes an index of the correct answers
(`rollout.expert_index`), from which the rule chooses (`rollout.expert_rule`); the second copies the chosen ones. It
needs no writer and no lock, keeps no book of its own, and gives the same for the same journal and rule.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rollout.datasets import write_batches
from rollout.expert_diversity import diversity, sample
from rollout.expert_index import ExpertIndex, index_phase, last_trained, stretches
from rollout.expert_report import ExpertReport
from rollout.expert_rule import Choice, ExpertRule, choose
from rollout.storage import Storage

SCHEMA = pa.schema(
    [
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        ("loss_mask", pa.list_(pa.bool_())),  # tokens that the policy wrote itself
        ("prompt_id", pa.string()),
        ("epoch", pa.int64()),
        ("sample_index", pa.int32()),
        ("step", pa.int64()),
        ("version", pa.int32()),  # the newest that sampled one of its tokens
        ("reward", pa.float64()),
        ("success_rate", pa.float64()),  # s(x) of its problem
    ]
)
_SOURCES = {"response_ids": "token_ids", "version": "newest_version"}


def select_experts(journal: Storage, iteration: int, rule: ExpertRule, out: Path | None) -> ExpertReport:
    """Choose the expert set of an iteration's exploration and write it to `out` as a supervised Parquet file.

    Candidates are all scored answers of the phase, whatever became of their groups: those of filtered, failed and
    stale ones are as verified as any. The rows are in the order of the journal. Without `out` it only reports.

    Raises:
        JournalDamaged: When something that was durable cannot be read.
    """
    trained = last_trained(journal, iteration, rule.last_steps) if rule.last_steps else None
    index = index_phase(journal, iteration, rule.seed, trained)
    choice = choose(index, rule if trained is None else replace(rule, last_steps=0))
    compared = sample(index, choice, rule.seed)
    chosen = np.arange(len(choice.kept)) if out else compared
    found: list[np.ndarray] = []
    rows = _noting(_answers(journal, index, choice, chosen), np.searchsorted(chosen, compared), found)
    if out:
        write_batches(out, SCHEMA, rows)
    else:
        for _ in rows:
            pass
    return replace(choice.report, diversity=diversity(zip(choice.prompts[compared].tolist(), found, strict=True)))


def _answers(
    journal: Storage, index: ExpertIndex, choice: Choice, chosen: npt.NDArray[np.int64]
) -> Iterator[pa.RecordBatch]:
    """Rows of the expert set, `chosen` ones of the choice, in its order."""
    answers, success = index.answers[choice.kept[chosen]], choice.success[chosen]
    groups, first = np.unique(answers["group"], return_index=True)
    first, done = np.append(first, len(answers)), 0
    names = [_SOURCES.get(name, name) for name in SCHEMA.names[:-1]]
    for sizes, rows in stretches(journal, index.groups[groups], names):
        here = slice(first[done], first[done + len(sizes)])
        starts = np.repeat(np.cumsum(sizes) - sizes, np.diff(first[done : done + len(sizes) + 1]))
        taken = rows.take(pa.array(starts + answers["row"][here]))
        yield pa.record_batch([*taken.columns, pa.array(success[here])], schema=SCHEMA)
        done += len(sizes)


def _noting(
    batches: Iterator[pa.RecordBatch], wanted: npt.NDArray[np.int64], found: list[np.ndarray]
) -> Iterator[pa.RecordBatch]:
    """The same batches; the tokens of the rows `wanted`, which are in order, go to `found` on the way."""
    seen = 0
    for batch in batches:
        low, high = np.searchsorted(wanted, (seen, seen + len(batch)))
        lists = batch["response_ids"].take(pa.array(wanted[low:high] - seen))
        tokens = lists.values.to_numpy()
        found += [tokens[a:b] for a, b in pairwise(lists.offsets.to_pylist())]
        seen += len(batch)
        yield batch
