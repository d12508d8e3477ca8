"""The journal: everything that was generated and what became of it. `Journal` is its only writer.

    segment-000001.arrow   answers with verdicts, an Arrow IPC stream: one record batch per group, one row per sample
    events.log             write-ahead log of events (rollout.events), which refer to record batches
    lock                   held by the writer that lives

A payload is durable before an event refers to it; events are durable in the order they were posted. Every start of
a writer opens a new segment, so that a torn one is never written to again. Readers need no writer and no lock.
"""

import asyncio
import fcntl
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from rollout.events import LOG_NAME, Event, PayloadRef, cut_torn_tail, encode_all
from rollout.payloads import SCHEMA

logger = logging.getLogger(__name__)

_SEGMENT_BYTES = 256 << 20  # a segment that has grown past this is closed and the next one opened


class JournalInUse(RuntimeError):
    """Another process writes this journal."""


class JournalBroken(RuntimeError):
    """A write failed, so nothing after it can be promised: the process must start again from what is durable."""


class Journal:
    """Appends payloads and events; `sync` makes everything posted so far durable.

    Group commit: whoever calls `sync` while an fsync is under way shares the next one. Files are written by one
    background call at a time, so the event loop never waits for the disk.
    """

    def __init__(self, directory: Path, segment_bytes: int = _SEGMENT_BYTES) -> None:
        """Open for writing; cuts what a crash left torn.

        Raises:
            JournalInUse: When another live process holds it.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._lock = _take_lock(directory / "lock")
        if torn := cut_torn_tail(directory):
            logger.warning("%s: cut %d bytes of a record that a crash left torn", directory / LOG_NAME, torn)
        self._log = (directory / LOG_NAME).open("ab")
        self._segment: _SegmentFile | None = None
        self._next = PayloadRef(max(_segment_numbers(directory), default=0) + 1, 0)
        self._next_bytes = 0
        self._payloads: list[tuple[PayloadRef, pa.RecordBatch]] = []
        self._events: list[Event] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None

    def add(self, payload: pa.RecordBatch) -> PayloadRef:
        """Queue a group's answers (`rollout.payloads.SCHEMA`). Returns where they will be."""
        if self._next_bytes > self._segment_bytes:
            self._next, self._next_bytes = PayloadRef(self._next.segment + 1, 0), 0
        ref = self._next
        self._payloads.append((ref, payload))
        self._next = PayloadRef(ref.segment, ref.batch + 1)
        self._next_bytes += payload.nbytes
        return ref

    def post(self, event: Event) -> None:
        """Queue an event; it is written with the next `sync`, after every payload queued before it."""
        self._events.append(event)

    async def sync(self) -> None:
        """Return once everything queued so far is durable.

        Raises:
            JournalBroken: When this write or an earlier one failed.
        """
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        await waiter

    async def close(self) -> None:
        """Make everything durable, end the segment, free the lock. Safe to call twice."""
        if self._log.closed:
            return
        try:
            await self.sync()
        finally:
            if self._segment:
                self._segment.close()
            self._log.close()
            self._lock.close()

    async def _flush(self) -> None:
        while self._waiters:
            payloads, self._payloads = self._payloads, []
            events, self._events = self._events, []
            waiters, self._waiters = self._waiters, []
            try:
                if self._failure:
                    raise self._failure
                await asyncio.to_thread(self._write, payloads, events)
            except BaseException as error:
                self._failure = error
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_exception(JournalBroken(f"{self._directory} cannot be written: {error}"))
                if not isinstance(error, Exception):
                    raise
            else:
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)

    def _write(self, payloads: Iterable[tuple[PayloadRef, pa.RecordBatch]], events: list[Event]) -> None:
        for ref, batch in payloads:
            if self._segment is None or self._segment.number != ref.segment:
                if self._segment:
                    self._segment.close()
                self._segment = _SegmentFile(self._directory, ref.segment)
            self._segment.write(batch)
        if self._segment:
            self._segment.make_durable()  # before the log refers to it
        if events:
            self._log.write(encode_all(events))
            self._log.flush()
            os.fdatasync(self._log.fileno())


class _SegmentFile:
    """The segment under construction."""

    def __init__(self, directory: Path, number: int) -> None:
        self.number = number
        self._file = _segment_path(directory, number).open("xb")
        self._stream = pa.ipc.new_stream(self._file, SCHEMA)
        self._dirty = True
        folder = os.open(directory, os.O_RDONLY)  # the file's name must survive too
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def write(self, batch: pa.RecordBatch) -> None:
        self._stream.write_batch(batch)
        self._dirty = True

    def make_durable(self) -> None:
        if self._dirty:
            self._file.flush()
            os.fdatasync(self._file.fileno())
            self._dirty = False

    def close(self) -> None:
        self._stream.close()
        self._file.flush()
        os.fdatasync(self._file.fileno())
        self._file.close()


def read_payloads(directory: Path, refs: Iterable[PayloadRef]) -> Iterator[tuple[PayloadRef, pa.RecordBatch]]:
    """The record batches at `refs`, in the order of the journal, streamed: one segment is open at a time.

    Raises:
        ValueError: When a segment ends before a batch that is asked for: the journal was damaged after it was written.
    """
    wanted: dict[int, set[int]] = {}
    for segment, batch in refs:
        wanted.setdefault(segment, set()).add(batch)
    for segment in sorted(wanted):
        left = wanted[segment]
        for number, payload in enumerate(read_segment(_segment_path(directory, segment))):
            if number in left:
                left.discard(number)
                yield PayloadRef(segment, number), payload
            if not left:
                break
        if left:
            raise ValueError(
                f"{_segment_path(directory, segment)} ends before record batches {sorted(left)[:5]}, which the log "
                f"refers to; it was damaged after it was written, restore it from a copy"
            )


def read_segment(path: Path) -> Iterator[pa.RecordBatch]:
    """Record batches of a segment, up to a torn tail; nothing from a segment without a whole schema."""
    with pa.memory_map(str(path)) as source:
        try:
            yield from pa.ipc.open_stream(source)
        except (pa.ArrowInvalid, OSError):  # what Arrow raises where a crash cut the stream
            return


def _segment_path(directory: Path, number: int) -> Path:
    return directory / f"segment-{number:06d}.arrow"


def _segment_numbers(directory: Path) -> list[int]:
    found = (re.fullmatch(r"segment-(\d+)\.arrow", path.name) for path in directory.iterdir())
    return [int(match[1]) for match in found if match]


def _take_lock(path: Path) -> Any:
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise JournalInUse(f"{path.parent} is being written by process {owner}; stop that run first") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file
