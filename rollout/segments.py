"""Payload files of the journal: record batches one after the other, numbered, in one of two forms.

    segment-000001.arrow     Arrow IPC stream: what is being written, and what a crash may leave torn
    segment-000001.parquet   the same record batches, compacted; `batch` says which of them a row belongs to

The same for `pieces-…`. Readers see record batches and do not care which form they come from.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rollout.events import JournalDamaged, PayloadRef
from rollout.payloads import PIECES_SCHEMA, SCHEMA
from rollout.storage import Appender, Storage

BATCH_COLUMN = "batch"
"""In Parquet: the number that the row's record batch had in the stream."""
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of an Arrow stream


@dataclass(frozen=True, slots=True)
class Kind:
    """What a payload file holds."""

    prefix: str
    schema: pa.Schema

    def arrow(self, number: int) -> str:
        """Name of the stream."""
        return f"{self.prefix}-{number:06d}.arrow"

    def parquet(self, number: int) -> str:
        """Name of the compacted file."""
        return f"{self.prefix}-{number:06d}.parquet"


GROUPS = Kind("segment", SCHEMA)
"""Finished groups: one record batch per group, one row per sample."""
PIECES = Kind("pieces", PIECES_SCHEMA)
"""Unfinished answers: one record batch per report on a group, one row per piece."""


def segments(storage: Storage, kind: Kind = GROUPS) -> list[int]:
    """Numbers of the segments that there are, in either form, in order."""
    return sorted({*numbers(storage, kind, "arrow"), *numbers(storage, kind, "parquet")})


def numbers(storage: Storage, kind: Kind, form: str) -> list[int]:
    """Numbers of the segments in one form, `arrow` or `parquet`, in order."""
    found = (re.fullmatch(rf"{kind.prefix}-(\d+)\.{form}", name) for name in storage.names())
    return sorted(int(match[1]) for match in found if match)


def read_segment(
    storage: Storage,
    number: int,
    kind: Kind = GROUPS,
    wanted: Collection[int] | None = None,
    columns: Sequence[str] | None = None,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(number, record batch) of a segment, streamed, up to a torn tail; only `wanted` ones if that is given.

    With `columns` the batches have just these, and the rest of a compacted segment is not read.

    Raises:
        JournalDamaged: When it is missing, or compacted and cannot be read.
    """
    compacted, data = _open(storage, number, kind)
    found = _read_parquet(data, kind, wanted, columns) if compacted else _read_arrow(data, columns)
    try:
        for batch_number, batch in found:
            if wanted is not None and batch_number in wanted:
                batch.validate(full=True)  # offsets out of a hole would be followed to anywhere in memory
            if wanted is None or batch_number in wanted:
                yield batch_number, batch
    except (pa.ArrowException, OSError) as error:
        raise JournalDamaged(
            f"{storage}/{kind.parquet(number)} was damaged after it was written, restore it from a copy: {error}"
        ) from error


def read_refs(
    storage: Storage, refs: Iterable[PayloadRef], kind: Kind = GROUPS, columns: Sequence[str] | None = None
) -> Iterator[tuple[PayloadRef, pa.RecordBatch]]:
    """The record batches at `refs`, in the order of the journal, streamed: one segment is open at a time.

    With `columns` they have just these.

    Raises:
        JournalDamaged: When a segment lacks a batch that is asked for.
    """
    wanted: dict[int, set[int]] = {}
    for segment, batch in refs:
        wanted.setdefault(segment, set()).add(batch)
    for segment in sorted(wanted):
        left = wanted[segment]
        for number, payload in read_segment(storage, segment, kind, frozenset(left), columns):
            left.discard(number)
            yield PayloadRef(segment, number), payload
            if not left:
                break
        if left:
            raise JournalDamaged(
                f"{storage}/{kind.arrow(segment)} ends before record batches {sorted(left)[:5]}, which the log "
                f"refers to; it was damaged after it was written, restore it from a copy"
            )


def read_stream(data: pa.Buffer) -> Iterator[pa.RecordBatch]:
    """Record batches of a stream, up to a torn tail; nothing from one without a whole schema."""
    try:
        yield from pa.ipc.open_stream(pa.BufferReader(data))
    except (pa.ArrowInvalid, OSError):  # what Arrow raises where a crash cut the stream
        return


def is_whole(data: pa.Buffer) -> bool:
    """Whether a stream has record batches and nothing but them, each of which makes sense.

    A crash may leave a hole between whole frames: offsets out of it would be followed to anywhere in memory.
    """
    source, count = pa.BufferReader(data), 0
    try:
        for batch in pa.ipc.open_stream(source):
            batch.validate(full=True)
            count += 1
    except (pa.ArrowInvalid, OSError):
        return False
    return count > 0 and source.tell() == data.size


_NUMBERS = 1000  # of an incarnation; 256 GB of answers before they run into the next one's


def parquet_schema(kind: Kind) -> pa.Schema:
    """Columns of the compacted form."""
    return pa.schema([(BATCH_COLUMN, pa.int32()), *kind.schema])


def _read_arrow(data: pa.Buffer, columns: Sequence[str] | None) -> Iterator[tuple[int, pa.RecordBatch]]:
    for number, batch in enumerate(read_stream(data)):
        yield number, batch if columns is None else batch.select(columns)


def _read_parquet(
    data: pa.Buffer, kind: Kind, wanted: Collection[int] | None, columns: Sequence[str] | None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(number, record batch) of a compacted segment, a row group at a time; row groups without `wanted` are skipped."""
    file = pq.ParquetFile(data, page_checksum_verification=True)
    schema = kind.schema if columns is None else pa.schema([kind.schema.field(name) for name in columns])
    for group in range(file.num_row_groups):
        span = file.metadata.row_group(group).column(0).statistics
        if wanted is not None and not any(span.min <= number <= span.max for number in wanted):
            continue
        [rows] = file.read_row_group(group, [BATCH_COLUMN, *schema.names]).combine_chunks().to_batches()
        owners = rows[BATCH_COLUMN].to_numpy()
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        rows = pa.record_batch([rows[name] for name in schema.names], schema=schema)
        for start, end in zip(starts, [*starts[1:], len(owners)], strict=True):
            yield int(owners[start]), rows.slice(start, end - start)


def _open(storage: Storage, number: int, kind: Kind) -> tuple[bool, pa.Buffer]:
    """Whether the segment is compacted, and its bytes. The stream goes once the compacted file is there."""
    for name in (kind.parquet(number), kind.arrow(number), kind.parquet(number)):
        try:
            return name == kind.parquet(number), storage.read(name)
        except FileNotFoundError:
            continue
    raise JournalDamaged(f"{storage}/{kind.arrow(number)} is missing; restore it from a copy")


class SegmentWriter:
    """The segments of one kind that this process writes, one after the other."""

    def __init__(self, storage: Storage, kind: Kind, segment_bytes: int, incarnation: int) -> None:
        """Start with a new segment, so that a torn one is never written to again.

        Each incarnation has numbers of its own: one that was used is never used again, also when its file was removed
        or a replaced writer still goes on.
        """
        self._storage = storage
        self._kind = kind
        self._segment_bytes = segment_bytes
        self._next = PayloadRef(max([(incarnation - 1) * _NUMBERS, *segments(storage, kind)]) + 1, 0)
        self._next_bytes = 0
        self._queue: list[tuple[PayloadRef, pa.RecordBatch]] = []
        self._number = 0
        self._file: Appender | None = None

    def add(self, batch: pa.RecordBatch) -> PayloadRef:
        """Queue a record batch. Returns where it will be."""
        if self._next_bytes > self._segment_bytes:
            self.roll()
        ref = self._next
        self._queue.append((ref, batch))
        self._next = PayloadRef(ref.segment, ref.batch + 1)
        self._next_bytes += batch.nbytes
        return ref

    def roll(self) -> int:
        """Let the next batch open a new segment. Returns its number; the segments before it get no more batches."""
        if self._next.batch:
            self._next, self._next_bytes = PayloadRef(self._next.segment + 1, 0), 0
        return self._next.segment

    def take(self) -> tuple[list[tuple[PayloadRef, pa.RecordBatch]], int]:
        """What is queued, and the segment that the next batch will be in: the arguments of `write`."""
        queue, self._queue = self._queue, []
        return queue, self._next.segment

    def write(self, queue: Iterable[tuple[PayloadRef, pa.RecordBatch]], next_segment: int) -> None:
        """Append; durable when it returns. Blocks; one call at a time."""
        for ref, batch in queue:
            if self._file is None or self._number != ref.segment:
                self.end()
                self._number, self._file = ref.segment, self._storage.create(self._kind.arrow(ref.segment))
                self._file.write(self._kind.schema.serialize())
            self._file.write(batch.serialize())
        if self._number < next_segment:
            self.end()
        elif self._file and queue:
            self._file.sync()

    def end(self) -> None:
        """End the segment under construction, durably."""
        if self._file:
            self._file.write(_END)
            self._file.sync()
            self.close()

    def close(self) -> None:
        """Let go of the file as it is."""
        if self._file:
            self._file.close()
            self._file = None
