"""Does every answer continue what was persisted of it? Reported pieces, read from the disk beside the log.

Pieces and answers lie on the disk in the order in which the log refers to them, so both are read once, forwards, and
in memory is only what belongs to groups that are unfinished at that point of the log. Pieces of groups that are
finished may be gone (`rollout.compaction`): of those nothing is said.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from rollout.events import Discarded, Dropped, Finished, JournalDamaged, PayloadRef, Progressed
from rollout.payloads import pieces_from_batch
from rollout.records import GroupKey, Piece, Segment
from rollout.segments import GROUPS, PIECES, Kind, read_segment
from rollout.storage import Storage


@dataclass(slots=True)
class _Known:
    calls: dict[tuple[int, str], Segment] = field(default_factory=dict)
    """(sample, call) → what is persisted of it; calls of a sample in the order in which they began."""
    gone: bool = False
    """True when some of its pieces are not on the disk."""

    def tokens(self, samples: tuple[int, ...] | None = None) -> int:
        """Persisted tokens, of some samples or of all."""
        return sum(len(answer) for (sample, _), answer in self.calls.items() if samples is None or sample in samples)


class Continuation:
    """A fold over the log's progress. Each method returns the faults that the event shows."""

    def __init__(self, journal: Storage) -> None:
        self._reports = Reports(journal)
        self._answers = _Forwards(journal, GROUPS)
        self._groups: dict[GroupKey, _Known] = {}

    def held(self) -> dict[GroupKey, int | None]:
        """Unfinished groups → tokens on the disk; None where pieces of the group are missing."""
        return {key: None if known.gone else known.tokens() for key, known in self._groups.items()}

    def progressed(self, event: Progressed) -> list[str]:
        """Pieces came in."""
        known = self._groups.setdefault(event.key, _Known())
        pieces = self._reports.pieces(event)
        if known.gone or pieces is None:
            known.gone = True
            return []
        before, faults = known.tokens(), []
        for piece in pieces:
            call = (piece.sample_index, piece.call)
            so_far = known.calls.get(call, Segment.empty())
            if piece.offset != len(so_far):
                faults.append(
                    f"pieces of answer {piece.sample_index} of {name(event.key)} follow one another, got tokens from "
                    f"{piece.offset} on after {len(so_far)}"
                )
            known.calls[call] = Segment.concatenate([so_far, piece.segment])
        if (found := known.tokens() - before) != event.tokens:
            faults.append(f"a report on {name(event.key)} has {event.tokens} tokens, its pieces have {found}")
        return faults

    def discarded(self, event: Discarded) -> list[str]:
        """Samples start again."""
        known = self._groups.get(event.key, _Known())
        found = known.tokens(event.samples)
        for call in [call for call in known.calls if call[0] in event.samples]:
            del known.calls[call]
        if known.gone or found == event.tokens:
            return []
        return [f"{event.tokens} tokens of {name(event.key)} were discarded, {found} were persisted"]

    def dropped(self, event: Dropped) -> None:
        """The group is not awaited any more; its pieces may go."""
        self._groups.pop(event.key, None)

    def finished(self, event: Finished) -> list[str]:
        """The whole answers came in."""
        known = self._groups.pop(event.key, _Known())
        if known.gone or not known.calls or (batch := self._answers.at(event.payload)) is None:
            return []
        rows = {index: row for row, index in enumerate(batch["sample_index"].to_pylist())}
        parts: dict[int, list[Segment]] = {}
        for (sample, _), part in known.calls.items():
            parts.setdefault(sample, []).append(part)
        return [
            f"answer {sample} of {name(event.key)} does not continue what was persisted of it"
            for sample, persisted in sorted(parts.items())
            if sample not in rows or not _continues(*_tokens(batch, rows[sample]), persisted)
        ]


def name(key: GroupKey) -> str:
    """A group, in sentences."""
    return f"{key.purpose}/{key.epoch}/{key.prompt_id}"


def _continues(token_ids: np.ndarray, versions: np.ndarray, parts: list[Segment]) -> bool:
    """True when the answer begins with the first call's tokens and has those of the others, in order, after them.

    Between calls may be what was not sampled (tool output), and what was sampled after the last report.
    """
    at = 0
    for number, part in enumerate(parts):
        last = len(token_ids) - len(part) if number else min(0, len(token_ids) - len(part))
        for start in range(at, last + 1):
            span = slice(start, start + len(part))
            if np.array_equal(token_ids[span], part.token_ids) and np.array_equal(versions[span], part.versions):
                at = span.stop
                break
        else:
            return False
    return True


def _tokens(batch: pa.RecordBatch, row: int) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(batch["token_ids"][row].values), np.asarray(batch["versions"][row].values)


class Reports:
    """What workers reported, for someone who asks in the order of the log."""

    def __init__(self, journal: Storage) -> None:
        self._batches = _Forwards(journal, PIECES)

    def pieces(self, event: Progressed) -> tuple[Piece, ...] | None:
        """What came in with this event; None when it is not there any more.

        A restart may give the number of a segment that was removed to another one, so what lies there is looked at.
        """
        batch = self._batches.at(event.payload)
        if batch is None or event.key != _key(batch) or event.attempt != batch["attempt"][0].as_py():
            return None
        return pieces_from_batch(batch)


def _key(batch: pa.RecordBatch) -> GroupKey:
    return GroupKey(*(batch[column][0].as_py() for column in ("purpose", "epoch", "prompt_id")))


class _Forwards:
    """The record batches of one kind; quick when asked for in the order of the journal."""

    def __init__(self, journal: Storage, kind: Kind) -> None:
        self._journal = journal
        self._kind = kind
        self._next = PayloadRef(0, 0)  # nothing before it is still to come
        self._batches: Iterator[tuple[int, pa.RecordBatch]] = iter(())

    def at(self, ref: PayloadRef) -> pa.RecordBatch | None:
        """The record batch; None when it is not there (any more)."""
        if ref.segment != self._next.segment or ref < self._next:
            self._batches = read_segment(self._journal, ref.segment, self._kind)
        self._next = PayloadRef(ref.segment, ref.batch + 1)
        try:
            return next((batch for number, batch in self._batches if number == ref.batch), None)
        except JournalDamaged:
            return None
