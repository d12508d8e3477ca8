"""What can happen to a group, and how the log keeps it: one record per event, one after the other.

    magic, length, CRC-32, incarnation (u32 each), durable (u64), JSON

`incarnation` is the writer's; what a writer appends after a newer one has opened the log counts for nothing.
`durable` is how much of the log its writer knew to be on the disk. So a record that cannot be read is told apart: it
is what a crash left of a last write unless a later record says that it was durable once, and then it is damage.

This file refuses to interpret: what the events add up to is the ledger's business.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias, get_args

from rollout.records import GroupKey
from rollout.storage import Storage

LOG_NAME = "events.log"
_MAGIC = b"\xabRL\xba"  # not ASCII, so no record's JSON can hold it
_HEADER = struct.Struct("<4sIIIQ")
_CHECKED = struct.Struct("<IQ")  # what the CRC covers besides the JSON
_FIRST_BYTES = 64 << 10  # no first record is longer


Fate = Literal["buffered", "dropped", "evaluated"]


class PayloadRef(NamedTuple):
    """Where a finished group's answers are."""

    segment: int
    batch: int
    """Record batch within the segment, from 0."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A writer took the journal: the first record of each incarnation."""

    incarnation: int
    """From 1; records of a smaller number that come after this one are a dead writer's and count for nothing."""
    fingerprint: str
    """sha256 of the data that the groups are made from; a resume with other data is refused."""
    writer: str
    """For people: host and process."""


@dataclass(frozen=True, slots=True)
class PhaseBegun:
    """A phase starts, or is taken up again after `done_steps`. Leases of whatever came before are void.

    Steps of the phase that were recorded after `done_steps` are trained again on the recorded groups. An evaluation
    goes on beside the phase under way, and voids the leases of the evaluation before it only.
    """

    kind: Literal["rl", "sample", "sft", "eval"]
    iteration: int
    """RLoop iteration (rl, sample), number of the evaluation (eval); 0 for sft."""
    version: int
    """Policy version at the start."""
    steps: int = 0
    """Optimizer steps (rl, sft), or groups (sample)."""
    done_steps: int = 0


@dataclass(frozen=True, slots=True)
class TakenUp:
    """The RL phase under way goes on while its steps after `done_steps` are trained again: leases stay as they are."""

    iteration: int
    version: int
    """Of the learner's weights now."""
    done_steps: int


@dataclass(frozen=True, slots=True)
class Leased:
    """A worker got the group."""

    key: GroupKey
    worker: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Progressed:
    """Tokens and verdicts of unfinished answers came in; their payload (`rollout.payloads`, pieces) is durable."""

    key: GroupKey
    worker: str
    attempt: int
    payload: PayloadRef
    """In the pieces' own segments."""
    tokens: int


@dataclass(frozen=True, slots=True)
class Released:
    """A lease ended without a result: the group is free again, what it has of answers is kept."""

    key: GroupKey
    reason: str
    """`given_back`, `interrupted`, `expired`, `worker_lost`, `phase_over`."""


@dataclass(frozen=True, slots=True)
class Discarded:
    """Some samples of a free group start again from nothing: the pieces that they had are void."""

    key: GroupKey
    samples: tuple[int, ...]
    tokens: int
    """Sampled tokens that are lost with them."""
    reason: str
    """`stale`: too old to be trained, `phase_over`, `deterministic`: a run that must repeat exactly, `failed`: the
    group is dropped next."""
    lengths: tuple[int, ...] = ()
    """How many of the tokens each sample had."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A report or an answer came late or twice and was turned away: nothing else happened."""

    key: GroupKey
    worker: str
    attempt: int
    what: Literal["progress", "finish"]
    state: str
    """What the group was then."""
    tokens: int
    """Sampled tokens turned away with it."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Answers and verdicts came in, their payload is durable, and their fate is decided: one atomic record."""

    key: GroupKey
    worker: str
    attempt: int
    payload: PayloadRef
    oldest: int
    """Smallest policy version among the sampled tokens; -1 without tokens."""
    newest: int
    fate: Fate
    reason: str = ""
    """Why it was dropped: `zero_variance`, `failed`…; `sampled`: its phase trains nothing."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A buffered group will not be trained after all, or a free one will not be leased again."""

    key: GroupKey
    reason: str
    """`stale`, `phase_over` of a buffered one; `failed` of a free one, whose leases lost their workers too often."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The groups were trained; `version` is what the step made. Durable before any engine sees that version."""

    keys: tuple[GroupKey, ...]
    version: int
    ends: str = ""
    """Why the phase ends with this step, before the steps that it was to have; empty when it goes on."""
    seen: dict[str, float] = field(default_factory=dict)
    """What the buffer had seen of the phase by then: `forgetting`, `reward_generated`…"""


@dataclass(frozen=True, slots=True)
class Tightened:
    """The staleness bound is lower for the rest of the RL phase, also when the phase is taken up again."""

    max_staleness: float


Event: TypeAlias = (
    Opened
    | PhaseBegun
    | TakenUp
    | Leased
    | Progressed
    | Released
    | Discarded
    | Refused
    | Finished
    | Dropped
    | Trained
    | Tightened
)

_TYPES: dict[str, type[Event]] = {t.__name__: t for t in get_args(Event)}


class JournalDamaged(ValueError):
    """Something that was durable cannot be read any more."""


class Record(NamedTuple):
    """A whole record of the log."""

    end: int
    """Offset after it."""
    incarnation: int
    durable: int
    event: Event


def encode(event: Event, incarnation: int, durable: int) -> bytes:
    """One log record."""
    fields = {name: getattr(event, name) for name in type(event).__slots__}
    text = json.dumps([type(event).__name__, fields], separators=(",", ":")).encode()
    return _HEADER.pack(_MAGIC, len(text), _crc(incarnation, durable, text), incarnation, durable) + text


def encode_all(events: Iterable[Event], incarnation: int, durable: int) -> bytes:
    """Log records of several events, in order."""
    return b"".join(encode(event, incarnation, durable) for event in events)


def replay(storage: Storage) -> Iterator[Event]:
    """The events of a journal that count, in order, up to a torn tail. Needs no lock; nothing if there is no log.

    Raises:
        JournalDamaged: At a record that was durable and cannot be read.
    """
    newest = 0
    for record in read_log(storage):
        if isinstance(record.event, Opened):
            newest = max(newest, record.incarnation)
        if record.incarnation >= newest:
            yield record.event


def read_log(storage: Storage, start: int = 0) -> Iterator[Record]:
    """Every whole record from offset `start` on, up to a torn tail, dead writers' included.

    Raises:
        JournalDamaged: At a record that was durable and cannot be read.
    """
    try:
        data = storage.read(LOG_NAME)
    except FileNotFoundError:
        return
    log = memoryview(data)
    while record := _record_at(log, start):
        yield record
        start = record.end
    if start < len(log):
        _refuse_a_hole(storage, bytes(log[start:]), start)


def _record_at(log: memoryview, offset: int) -> Record | None:
    if len(log) - offset < _HEADER.size:
        return None
    magic, length, crc, incarnation, durable = _HEADER.unpack_from(log, offset)
    begin, end = offset + _HEADER.size, offset + _HEADER.size + length
    if magic != _MAGIC or end > len(log):
        return None
    text = bytes(log[begin:end])
    if _crc(incarnation, durable, text) != crc:
        return None
    return Record(end, incarnation, durable, _decode(text))


def _refuse_a_hole(storage: Storage, rest: bytes, offset: int) -> None:
    """Raise unless `rest`, which begins with what cannot be read, is what a crash left of a last write."""
    log, found = memoryview(rest), rest.find(_MAGIC)
    while found >= 0:
        record = _record_at(log, found)
        if record and record.durable > offset:
            raise JournalDamaged(
                f"{storage}/{LOG_NAME} cannot be read at byte {offset}, and a later record says that its first "
                f"{record.durable} bytes were durable: it was damaged after it was written, restore it from a copy"
            )
        found = rest.find(_MAGIC, found + 1)
    if offset == 0 and len(rest) > _FIRST_BYTES:
        raise JournalDamaged(
            f"{storage}/{LOG_NAME} has {len(rest)} bytes and no record that this RLoop can read; "
            f"use the RLoop that wrote it, or restore it from a copy"
        )


def _crc(incarnation: int, durable: int, text: bytes) -> int:
    return zlib.crc32(text, zlib.crc32(_CHECKED.pack(incarnation, durable)))


def _decode(text: bytes) -> Event:
    name, fields = json.loads(text.decode())
    if "key" in fields:
        fields["key"] = GroupKey(*fields["key"])
    if "keys" in fields:
        fields["keys"] = tuple(GroupKey(*key) for key in fields["keys"])
    if "samples" in fields:
        fields["samples"], fields["lengths"] = tuple(fields["samples"]), tuple(fields["lengths"])
    if "payload" in fields:
        fields["payload"] = PayloadRef(*fields["payload"])
    return _TYPES[name](**fields)
