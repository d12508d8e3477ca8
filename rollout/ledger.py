"""The ledger: what every (purpose, epoch, prompt) is now, as a fold over the journal's events.

    FREE → LEASED → BUFFERED → TRAINED        a training group
              │         └──→ DROPPED          stale, phase over
              ├──→ DROPPED                    filtered or failed
              ├──→ EVALUATED                  a held-out group
              └──→ FREE                       lease lost, interrupted or given back; its pieces are kept
                    └──→ DROPPED              failed: it lost its worker too often

It refuses every other transition. What was trained once is never trained by another step: a run that is taken up at an
earlier checkpoint trains the recorded steps again, on the same groups (`steps`). It knows no clock and no tokens.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rollout.events import (
    Discarded,
    Dropped,
    Event,
    Finished,
    Leased,
    Opened,
    PayloadRef,
    PhaseBegun,
    Progressed,
    Refused,
    Released,
    Tightened,
    Trained,
)
from rollout.records import GroupKey, Purpose

State = Literal["free", "leased", "buffered", "trained", "dropped", "evaluated"]


class IllegalTransition(ValueError):
    """An event that cannot follow what already happened to its group."""


@dataclass(slots=True)
class Entry:
    """What is known of one group."""

    state: State = "free"
    attempts: int = 0
    """How often it was leased."""
    losses: int = 0
    """How many of these leases ended because their worker was lost."""
    worker: str = ""
    """Who holds it, or held it last."""
    iteration: int = -1
    """RLoop iteration whose phase leased it last (or number of the evaluation)."""
    pieces: list[PayloadRef] = field(default_factory=list)
    """What is kept of unfinished answers, oldest first."""
    restarted: dict[int, int] = field(default_factory=dict)
    """Sample → how many of `pieces` are void for it, because it started again after them."""
    payload: PayloadRef | None = None
    """Its answers, once they are finished."""
    oldest: int = -1
    newest: int = -1
    trained_at: int = -1
    """Version that its training step made."""
    reason: str = ""
    """Why it was dropped."""


class Ledger:
    """State of every group that was ever leased; all others are free."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.entries: dict[GroupKey, Entry] = {}
        self.steps: dict[int, list[Trained]] = {}
        """RLoop iteration → the steps of its RL phase, in order: what its weights are made of."""
        self.bounds: dict[int, float] = {}
        """RLoop iteration → staleness bound of its RL phase, once it was tightened."""
        self.refused: Counter[str] = Counter()
        """Late and duplicate deliveries that were turned away, by the state that the group was in."""
        self._phase: PhaseBegun | None = None  # the one that trains or samples; evaluations go on beside it
        for event in events:
            self.apply(event)

    def state(self, key: GroupKey) -> State:
        """What the group is now."""
        entry = self.entries.get(key)
        return entry.state if entry else "free"

    def attempts(self, key: GroupKey) -> int:
        """How often the group was leased."""
        entry = self.entries.get(key)
        return entry.attempts if entry else 0

    def losses(self, key: GroupKey) -> int:
        """How many leases of the group ended because their worker was lost."""
        entry = self.entries.get(key)
        return entry.losses if entry else 0

    def buffered(self) -> list[GroupKey]:
        """Groups that wait to be trained."""
        return [key for key, entry in self.entries.items() if entry.state == "buffered"]

    def unfinished(self) -> list[GroupKey]:
        """Free groups of which pieces are kept."""
        return [key for key, entry in self.entries.items() if entry.state == "free" and entry.pieces]

    def holds(self, worker: str, key: GroupKey, attempt: int) -> bool:
        """True when this very lease of the group is out."""
        entry = self.entries.get(key)
        return (
            entry is not None
            and entry.state == "leased"
            and entry.worker == worker
            and entry.attempts == attempt + 1  # not an earlier lease of the same worker
        )

    def was_trained(self, keys: Sequence[GroupKey], version: int) -> bool:
        """True when exactly this was recorded before."""
        entries = [self.entries.get(key) for key in keys]
        return all(e is not None and e.state == "trained" and e.trained_at == version for e in entries)

    def apply(self, event: Event) -> None:
        """Take one event into account.

        Raises:
            IllegalTransition: When it cannot follow what happened before; nothing is changed.
        """
        match event:
            case Opened():
                self._end_leases()  # their writer is dead: a report that comes late finds them gone
            case PhaseBegun():
                self._begin(event)
            case Leased():
                entry = self.entries.setdefault(event.key, Entry())
                self._require(event, event.key, "free")
                entry.state, entry.worker, entry.attempts = "leased", event.worker, event.attempt + 1
                entry.iteration = event.key.epoch if event.key.purpose == "eval" else self._iteration
            case Progressed():
                self._held(event).pieces.append(event.payload)
            case Released():
                entry = self._require(event, event.key, "leased")
                entry.state = "free"
                entry.losses += event.reason == "worker_lost"
            case Discarded():
                entry = self._require(event, event.key, "free")
                entry.restarted |= dict.fromkeys(event.samples, len(entry.pieces))
            case Refused():
                self.refused[event.state] += 1
            case Finished():
                self._finish(event)
            case Dropped():
                entry = self._require(event, event.key, "free" if event.reason == "failed" else "buffered")
                entry.state, entry.reason = "dropped", event.reason
                entry.pieces, entry.restarted = [], {}
            case Trained():
                self._train(event)
            case Tightened():
                if self._phase:
                    self.bounds[self._phase.iteration] = event.max_staleness

    def _finish(self, event: Finished) -> None:
        entry = self._held(event)
        entry.state, entry.reason = event.fate, event.reason
        entry.payload, entry.oldest, entry.newest = event.payload, event.oldest, event.newest
        entry.pieces, entry.restarted = [], {}

    def _train(self, event: Trained) -> None:
        entries = [self._require(event, key, "buffered") for key in event.keys]
        for entry in entries:
            entry.state, entry.trained_at = "trained", event.version
        if self._phase:
            self.steps.setdefault(self._phase.iteration, []).append(event)

    def _begin(self, event: PhaseBegun) -> None:
        if event.kind == "eval":
            self._end_leases("eval")
        else:
            self._phase = event
            self._end_leases()

    @property
    def _iteration(self) -> int:
        return self._phase.iteration if self._phase else -1

    def _end_leases(self, purpose: Purpose | None = None) -> None:
        for key, entry in self.entries.items():
            if entry.state == "leased" and purpose in (None, key.purpose):
                entry.state = "free"

    def _held(self, event: Progressed | Finished) -> Entry:
        entry = self._require(event, event.key, "leased")
        if not self.holds(event.worker, event.key, event.attempt):
            raise IllegalTransition(
                f"{type(event).__name__} of {event.key} by {event.worker} under lease {event.attempt}, but it is "
                f"leased to {entry.worker} under lease {entry.attempts - 1}"
            )
        return entry

    def _require(self, event: Event, key: GroupKey, state: State) -> Entry:
        entry = self.entries.get(key)
        if entry is None or entry.state != state:
            raise IllegalTransition(f"{type(event).__name__} needs a group that is {state}, {key} is {self.state(key)}")
        return entry
