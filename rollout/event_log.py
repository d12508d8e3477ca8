"""The one writer of the log: opens it under a new incarnation, appends, and notices when it has lost it.

The lock keeps a second writer out as long as the file system honours it. Where it does not (some network file
systems, a lock file that someone removed), the log itself decides: whoever opened it last has it. A writer looks at
the end of the log before and after each write, so what it calls durable came before any newer writer, and what it
writes without knowing of that one counts for nothing (`rollout.events.replay`).
"""

import logging
from collections.abc import Callable, Sequence

from rollout.events import LOG_NAME, Event, JournalDamaged, Opened, Record, encode_all, read_log
from rollout.storage import Storage

logger = logging.getLogger(__name__)

_LONG_BYTES = 8 << 20  # reading a longer log takes more than a second

Take = Callable[[Event], None]
"""Takes one event into account."""


class JournalBroken(RuntimeError):
    """A write failed, so nothing after it can be promised: the process must start again from what is durable."""


class JournalFenced(JournalBroken):
    """Another writer has the journal now."""


class EventLog:
    """Appends events. Blocks; one call at a time."""

    def __init__(self, storage: Storage, fingerprint: str, take: Take = lambda event: None) -> None:
        """Cut what a crash left torn, and open a new incarnation: it is durable when this returns.

        Args:
            storage: The journal's folder.
            fingerprint: sha256 of the data that the groups are made from.
            take: Gets every event that counts, in order, this writer's own opening included.

        Raises:
            ValueError: When the run was started with other data.
            JournalDamaged: When something that was durable cannot be read.
        """
        self._storage = storage
        end, newest = _look_through(storage, fingerprint, take)
        _cut(storage, end)
        self.incarnation = newest + 1
        self._log = storage.append(LOG_NAME)
        try:
            self._log.sync()  # what a writer left that was killed before it could
            self._end = self._log.size
            """Everything before it is durable."""
            opened = Opened(self.incarnation, fingerprint, storage.writer)
            self.append([opened])
            take(opened)
        except BaseException:
            self._log.close()
            raise

    def check(self) -> None:
        """Look whether this writer still has the log.

        Raises:
            JournalFenced: When it has not.
        """
        self._settle(0)

    def append(self, events: Sequence[Event]) -> None:
        """Write events; they are durable when this returns.

        Raises:
            JournalFenced: When another writer has the log; the events may count or not.
        """
        records = encode_all(events, self.incarnation, self._end)
        self._log.write(records)
        self._log.sync()
        self._settle(len(records))

    def close(self) -> None:
        """Let go of the file."""
        self._log.close()

    def _settle(self, own: int) -> None:
        """Move the end behind the `own` bytes just written, and behind whatever a dead writer put between."""
        end = self._end + own
        if self._storage.size(LOG_NAME) != end:
            end = self._look_behind(self._end)
            self._log.sync()
        self._end = end

    def _look_behind(self, end: int) -> int:
        """Where the log ends now, if nobody took it over after `end`."""
        try:
            for record in read_log(self._storage, end):
                if isinstance(record.event, Opened) and record.incarnation >= self.incarnation:
                    raise JournalFenced(
                        f"another process took the run over: {record.event.writer} opened {self._storage} as "
                        f"incarnation {record.incarnation}, this is incarnation {self.incarnation}"
                    )
                end = record.end
        except JournalDamaged as damaged:
            raise JournalBroken(str(damaged)) from damaged
        if end != self._storage.size(LOG_NAME):
            raise JournalBroken(f"{self._storage}/{LOG_NAME} does not end where this process left it, at byte {end}")
        logger.warning("%s: a writer that was replaced is still writing; its events are ignored", self._storage)
        return end


def _look_through(storage: Storage, fingerprint: str, take: Take) -> tuple[int, int]:
    """Where the log's whole records end, and its newest incarnation; `take` gets what counts of it."""
    end = newest = events = 0
    size = storage.size(LOG_NAME) if LOG_NAME in storage.names() else 0
    if size > _LONG_BYTES:
        logger.info("%s: %d MB of events are replayed", storage, size >> 20)
    for record in read_log(storage):
        end = record.end
        if isinstance(record.event, Opened):
            _refuse_other_data(storage, record, fingerprint)
            newest = max(newest, record.incarnation)
        if record.incarnation >= newest:
            take(record.event)
            events += 1
    if size > _LONG_BYTES:
        logger.info("%s: %d events were replayed", storage, events)
    return end, newest


def _refuse_other_data(storage: Storage, record: Record, fingerprint: str) -> None:
    assert isinstance(record.event, Opened)
    if record.event.fingerprint != fingerprint:
        raise ValueError(
            f"{storage} was written with data {record.event.fingerprint[:12]}, this run has data {fingerprint[:12]}; "
            f"resume with the data that the run was started with"
        )


def _cut(storage: Storage, end: int) -> None:
    torn = storage.size(LOG_NAME) - end if LOG_NAME in storage.names() else 0
    if torn:
        logger.warning("%s/%s: cut %d bytes of a record that a crash left torn", storage, LOG_NAME, torn)
        storage.truncate(LOG_NAME, end)
