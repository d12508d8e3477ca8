"""What can happen to a group, and the write-ahead log that keeps it: length, CRC-32, JSON, one after the other.

A record that a crash cut short ends the log: reading stops before it, and the writer cuts it off. This file refuses
to interpret: what the events add up to is the ledger's business.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

from rollout.records import GroupKey

LOG_NAME = "events.log"
_HEADER = struct.Struct("<II")  # bytes of the record, CRC-32 of the record


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

    Steps of the phase that were recorded after `done_steps` are trained again on the recorded groups.
    """

    kind: Literal["rl", "sft", "eval"]
    iteration: int
    """RLoop iteration (rl), number of the evaluation (eval); 0 for sft."""
    version: int
    """Policy version at the start."""
    steps: int = 0
    done_steps: int = 0
    limit: int = 0
    """Groups that the phase may still accept."""


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
    """`stale`: too old to be trained, `phase_over`, `deterministic`: a run that must repeat exactly."""


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
    """Why it was dropped: `zero_variance`, `failed`…"""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A buffered group will not be trained after all."""

    key: GroupKey
    reason: str
    """`stale`, `phase_over`."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The groups were trained; `version` is what the step made. Durable before any engine sees that version."""

    keys: tuple[GroupKey, ...]
    version: int


Event: TypeAlias = (
    Opened | PhaseBegun | Leased | Progressed | Released | Discarded | Refused | Finished | Dropped | Trained
)

_TYPES: dict[str, type[Event]] = {t.__name__: t for t in get_args(Event)}


def encode(event: Event) -> bytes:
    """One log record: header and JSON."""
    fields = {name: getattr(event, name) for name in type(event).__slots__}
    record = json.dumps([type(event).__name__, fields], separators=(",", ":")).encode()
    return _HEADER.pack(len(record), zlib.crc32(record)) + record


def replay(directory: Path) -> Iterator[Event]:
    """The events of a journal, in order, up to the first torn record. Needs no lock; nothing if there is no log."""
    return (event for _, event in _records(directory / LOG_NAME))


def cut_torn_tail(directory: Path) -> int:
    """Remove what a crash left of its last write. Only the writer may do this. Returns the bytes removed."""
    path = directory / LOG_NAME
    if not path.exists():
        return 0
    end = max((end for end, _ in _records(path)), default=0)
    torn = path.stat().st_size - end
    if torn:
        with path.open("r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    return torn


def _records(path: Path) -> Iterator[tuple[int, Event]]:
    """(offset after the record, event) of every whole record."""
    if not path.exists():
        return
    with path.open("rb") as file:
        while len(header := file.read(_HEADER.size)) == _HEADER.size:
            length, crc = _HEADER.unpack(header)
            record = file.read(length)
            if len(record) < length or zlib.crc32(record) != crc or not record:
                return
            yield file.tell(), _decode(record)


def _decode(record: bytes) -> Event:
    name, fields = json.loads(record)
    if "key" in fields:
        fields["key"] = GroupKey(*fields["key"])
    if "keys" in fields:
        fields["keys"] = tuple(GroupKey(*key) for key in fields["keys"])
    if "payload" in fields:
        fields["payload"] = PayloadRef(*fields["payload"])
    if "samples" in fields:
        fields["samples"] = tuple(fields["samples"])
    return _TYPES[name](**fields)


def encode_all(events: Iterable[Event]) -> bytes:
    """Log records of several events, in order."""
    return b"".join(map(encode, events))
