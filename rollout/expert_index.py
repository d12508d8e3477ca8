"""The scored answers of a phase as flat columns: what an expert set is chosen from, without the tokens.

A fold over the events says where the groups of the phase are, then their answers stream by: a row per group, and a row
per correct answer that may be kept. Of the texts it has hashes.
"""

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollout.events import Finished, PayloadRef, PhaseBegun, Trained, replay
from rollout.journal import read_payloads
from rollout.payloads import SCHEMA
from rollout.records import GroupKey
from rollout.storage import Storage

_PLACE = np.dtype([("segment", "i4"), ("batch", "i4")])
GROUP = np.dtype(
    [
        *_PLACE.descr,
        ("prompt", "u8"),  # hash of the prompt id
        ("epoch", "i8"),
        ("step", "i8"),
        ("scored", "i4"),  # answers with a verdict
        ("correct", "i4"),  # of these
    ]
)
ANSWER = np.dtype(
    [
        ("digest", "u8"),  # hash of the tokens, keyed with the seed and the prompt: identity and lot in one
        ("group", "i4"),  # row of `groups`
        ("row", "i4"),  # of the group's record batch
        ("sample", "i4"),
        ("tokens", "i4"),
    ]
)
_COLUMNS = ("epoch", "prompt_id", "sample_index", "step", "token_ids", "status", "verdict_status")
_STRETCH_BYTES = 1 << 20  # groups are looked at together up to this size


@dataclass(frozen=True, slots=True, eq=False)
class ExpertIndex:
    """What is known of a phase's answers: 44 bytes per group, 24 per correct answer."""

    groups: np.ndarray
    """[G] `GROUP`, in the order of the journal's payloads."""
    answers: np.ndarray
    """[A] `ANSWER`: correct answers, whole and not empty, in the same order."""


def phase_groups(journal: Storage) -> dict[int, np.ndarray]:
    """RLoop iteration → [G] places (`segment`, `batch`) of its finished training groups, in order; all fates.

    A group belongs to the phase that explores (RL, or sampling alone) during which it finished; an evaluation in the
    middle of one does not end it.

    Raises:
        JournalDamaged: At a record of the log that was durable and cannot be read.
    """
    found: dict[int, tuple[array[int], array[int]]] = {}
    iteration = -1
    for event in replay(journal):
        if isinstance(event, PhaseBegun) and event.kind in ("rl", "sample"):
            iteration = event.iteration
        elif isinstance(event, Finished) and event.key.purpose == "train":
            segments, batches = found.setdefault(iteration, (array("i"), array("i")))
            segments.append(event.payload.segment)
            batches.append(event.payload.batch)
    return {iteration: _in_order(_columns(_PLACE, *places)) for iteration, places in sorted(found.items())}


def last_trained(journal: Storage, iteration: int, steps: int) -> np.ndarray | None:
    """[G] places of the groups that the last so many steps of an RL phase trained; None when nothing was trained."""
    last: deque[tuple[GroupKey, ...]] = deque(maxlen=steps)
    now = -1
    for event in replay(journal):
        if isinstance(event, PhaseBegun) and event.kind in ("rl", "sample"):
            now = event.iteration
        elif isinstance(event, Trained) and now == iteration:
            last.append(event.keys)
    if not last:
        return None
    wanted = {key for keys in last for key in keys}
    found = [e.payload for e in replay(journal) if isinstance(e, Finished) and e.key in wanted]
    return _in_order(_columns(_PLACE, [ref.segment for ref in found], [ref.batch for ref in found]))


def index_phase(journal: Storage, iteration: int, seed: int, places: np.ndarray | None = None) -> ExpertIndex:
    """Look at every answer of an iteration's exploration once, or of its groups at `places` alone.

    Raises:
        JournalDamaged: When something that was durable cannot be read.
    """
    if places is None:
        places = phase_groups(journal).get(iteration, np.empty(0, _PLACE))
    groups, answers, done = [np.empty(0, GROUP)], [np.empty(0, ANSWER)], 0
    for sizes, rows in stretches(journal, places, _COLUMNS):
        here = places[done : done + len(sizes)]
        found = _look_at(here, sizes, rows, str(seed).encode())
        found[1]["group"] += done
        groups.append(found[0])
        answers.append(found[1])
        done += len(sizes)
    return ExpertIndex(np.concatenate(groups), np.concatenate(answers))


def stretches(
    journal: Storage, places: np.ndarray, columns: Sequence[str]
) -> Iterator[tuple[npt.NDArray[np.int64], pa.RecordBatch]]:
    """Groups at `places`, which are in order, a megabyte of them together: (rows of each group, all rows).

    Raises:
        JournalDamaged: When one of them cannot be read.
    """
    if not len(places):
        return
    lists = [name for name in columns if pa.types.is_list(SCHEMA.field(name).type)]  # the rest is nothing beside them
    pending: list[pa.RecordBatch] = []
    num_bytes = 0
    segments, first = np.unique(places["segment"], return_index=True)
    for segment, batches in zip(segments.tolist(), np.split(places["batch"], first[1:]), strict=True):
        refs = (PayloadRef(segment, batch) for batch in batches.tolist())
        for _, group in read_payloads(journal, refs, columns):
            pending.append(group)
            num_bytes += sum(group[name].nbytes for name in lists)
            if num_bytes >= _STRETCH_BYTES:
                yield _together(pending)
                pending, num_bytes = [], 0
    if pending:
        yield _together(pending)


def _in_order(places: np.ndarray) -> np.ndarray:
    return places[np.lexsort((places["batch"], places["segment"]))]


def _together(groups: list[pa.RecordBatch]) -> tuple[npt.NDArray[np.int64], pa.RecordBatch]:
    return np.array([len(group) for group in groups]), pa.concat_batches(groups)


def _look_at(
    places: np.ndarray, sizes: npt.NDArray[np.int64], rows: pa.RecordBatch, key: bytes
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of some groups in the two tables; groups are counted from 0."""
    owner, first = np.repeat(np.arange(len(sizes)), sizes), np.cumsum(sizes) - sizes
    lengths = rows["token_ids"].value_lengths().to_numpy()
    correct = _equal(rows["verdict_status"], "correct")
    scored = correct | _equal(rows["verdict_status"], "wrong")
    whole = np.flatnonzero(correct & _equal(rows["status"], "finished") & (lengths > 0))
    heads = rows.select(["prompt_id", "epoch", "step"]).take(pa.array(first))
    prompts = [blake2b(name.encode(), digest_size=8).digest() for name in heads["prompt_id"].to_pylist()]
    groups = _columns(
        GROUP,
        places["segment"],
        places["batch"],
        np.frombuffer(b"".join(prompts), "u8"),
        heads["epoch"].to_numpy(),
        heads["step"].to_numpy(),
        np.bincount(owner[scored], minlength=len(sizes)),
        np.bincount(owner[correct], minlength=len(sizes)),
    )
    answers = _columns(
        ANSWER,
        _digests(rows["token_ids"], whole, key, [prompts[group] for group in owner[whole].tolist()]),
        owner[whole],
        (whole - first[owner[whole]]),
        rows["sample_index"].to_numpy()[whole],
        lengths[whole],
    )
    return groups, answers


def _digests(
    lists: pa.ListArray, wanted: npt.NDArray[np.int64], key: bytes, salts: list[bytes]
) -> npt.NDArray[np.uint64]:
    offsets, tokens = lists.offsets.to_numpy(), memoryview(lists.values.to_numpy())
    spans = zip(offsets[wanted].tolist(), offsets[wanted + 1].tolist(), salts, strict=True)
    digests = (blake2b(tokens[a:b], digest_size=8, key=key, salt=salt).digest() for a, b, salt in spans)
    return np.frombuffer(b"".join(digests), "u8")


def _equal(column: pa.StringArray, value: str) -> npt.NDArray[np.bool_]:
    return pc.equal(column, value).to_numpy(zero_copy_only=False)


def _columns(dtype: np.dtype, *columns: npt.ArrayLike) -> np.ndarray:
    """A table of that type from its columns in order."""
    table = np.empty(len(np.asarray(columns[0])), dtype)
    for name, column in zip(dtype.names or (), columns, strict=True):
        table[name] = column
    return table
