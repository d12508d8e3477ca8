"""The journal: everything that was generated and what became of it. `Journal` is its only writer.

    segment-000001.arrow   finished answers with verdicts (rollout.segments); Parquet once a phase has ended
    pieces-000001.arrow    what unfinished answers have so far
    events.log             write-ahead log of events (rollout.events), which refer to record batches
    lock                   held by the writer that lives

A payload is durable before an event refers to it; events are durable in the order they were posted. Every start of
a writer opens new segments, so that a torn one is never written to again. Readers need no writer and no lock.
"""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Sequence

import pyarrow as pa

from rollout.compaction import compact_segments, remove_pieces
from rollout.event_log import EventLog, JournalBroken, Take
from rollout.events import Event, PayloadRef
from rollout.segments import GROUPS, PIECES, SegmentWriter, read_refs
from rollout.storage import Storage

_SEGMENT_BYTES = 256 << 20  # a segment that has grown past this is closed and the next one opened


class Journal:
    """Appends payloads and events; `sync` makes everything posted so far durable.

    Group commit: whoever calls `sync` while an fsync is under way shares the next one. Files are written by one
    background call at a time, so the event loop never waits for the disk.
    """

    def __init__(
        self,
        storage: Storage,
        fingerprint: str,
        segment_bytes: int = _SEGMENT_BYTES,
        take: Take = lambda event: None,
    ) -> None:
        """Open for writing; cuts what a crash left torn. The new incarnation is durable when this returns.

        Args:
            storage: The journal's folder.
            fingerprint: sha256 of the data that the groups are made from.
            segment_bytes: Size after which a payload file is closed.
            take: Gets every event that counts, in order, this writer's own opening included.

        Raises:
            InUse: When another live process holds it.
            ValueError: When it was started with other data.
            JournalDamaged: When something that was durable cannot be read.
        """
        self._storage = storage
        self._lock = storage.lock("lock")
        try:
            self._log = EventLog(storage, fingerprint, take)
            self._groups = SegmentWriter(storage, GROUPS, segment_bytes, self._log.incarnation)
            self._pieces = SegmentWriter(storage, PIECES, segment_bytes, self._log.incarnation)
        except BaseException:
            self._lock.close()
            raise
        self._events: list[Event] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._closed = False

    @property
    def incarnation(self) -> int:
        """Which writer of this journal this is, from 1."""
        return self._log.incarnation

    def add(self, payload: pa.RecordBatch) -> PayloadRef:
        """Queue a group's answers (`rollout.payloads.SCHEMA`). Returns where they will be."""
        return self._groups.add(payload)

    def add_pieces(self, payload: pa.RecordBatch) -> PayloadRef:
        """Queue what a group's unfinished answers have (`rollout.payloads.PIECES_SCHEMA`); has its own numbering."""
        return self._pieces.add(payload)

    def post(self, event: Event) -> None:
        """Queue an event; it is written with the next `sync`, after every payload queued before it."""
        self._events.append(event)

    async def sync(self) -> None:
        """Return once everything queued so far is durable.

        Raises:
            JournalFenced: When another writer has the journal now.
            JournalBroken: When this write or an earlier one failed.
        """
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        await waiter

    def require_whole(self) -> None:
        """Raise `JournalBroken` once a write has failed: from then on nothing here can be promised."""
        if self._failure:
            raise self._broken(self._failure)

    async def compact(self, keep_pieces: Collection[PayloadRef] | None = None) -> None:
        """Turn the segments written so far into Parquet; what is added from now on goes to new ones.

        A crash or a failure at any point leaves every answer readable, and the next call goes on. Segments that a
        crash left torn stay as they are.

        Args:
            keep_pieces: Pieces that may still be read. Of segments written so far, those without any of them are
                removed; None keeps all.
        """
        groups, pieces = self._groups.roll(), self._pieces.roll()
        await self.sync()  # closes them, and checks that the journal is still ours
        await asyncio.to_thread(compact_segments, self._storage, groups)
        if keep_pieces is not None:
            await asyncio.to_thread(remove_pieces, self._storage, pieces, {ref.segment for ref in keep_pieces})

    async def close(self) -> None:
        """Make everything durable, end the segments, free the lock. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        try:
            self._groups.roll()
            self._pieces.roll()
            await self.sync()
        finally:
            for held in (self._groups, self._pieces, self._log, self._lock):
                held.close()

    async def _flush(self) -> None:
        while self._waiters:
            work = (self._groups.take(), self._pieces.take(), self._events)
            self._events = []
            waiters, self._waiters = self._waiters, []
            try:
                if self._failure:
                    raise self._failure
                await asyncio.to_thread(self._write, *work)
            except BaseException as error:
                self._failure = error
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_exception(self._broken(error))
                if not isinstance(error, Exception):
                    raise
            else:
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)

    def _write(self, groups: tuple, pieces: tuple, events: list[Event]) -> None:
        self._log.check()
        self._groups.write(*groups)  # before the log refers to it
        self._pieces.write(*pieces)
        if events:
            self._log.append(events)

    def _broken(self, error: BaseException) -> JournalBroken:
        if isinstance(error, JournalBroken):
            return type(error)(str(error))
        return JournalBroken(f"{self._storage} cannot be written: {error}")


def read_payloads(
    storage: Storage, refs: Iterable[PayloadRef], columns: Sequence[str] | None = None
) -> Iterator[tuple[PayloadRef, pa.RecordBatch]]:
    """Finished groups at `refs`, in the order of the journal, streamed (`rollout.payloads.from_batch`).

    With `columns` they have just these columns.

    Raises:
        JournalDamaged: When a segment lacks one of them.
    """
    return read_refs(storage, refs, GROUPS, columns)


def read_pieces(storage: Storage, refs: Iterable[PayloadRef]) -> Iterator[tuple[PayloadRef, pa.RecordBatch]]:
    """Reported pieces at `refs`, in the order of the journal, streamed (`rollout.payloads.pieces_from_batch`).

    Raises:
        JournalDamaged: When a segment lacks one of them.
    """
    return read_refs(storage, refs, PIECES)
