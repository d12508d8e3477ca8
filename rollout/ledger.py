"""The ledger: what every (purpose, epoch, prompt) is now, as a fold over the journal's events.

    FREE → LEASED → BUFFERED → TRAINED        a training group
              │         └──→ DROPPED          stale
              ├──→ DROPPED                    filtered or failed
              ├──→ EVALUATED                  a held-out group
              └──→ FREE                       lease lost or given back

It refuses every other transition, and it keeps exactly-once on the lineage of surviving weights: when a phase is
taken up at an earlier step, what later weights sampled or trained did not happen. It knows no clock and no tokens.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rollout.events import Dropped, Event, Finished, Leased, PayloadRef, PhaseBegun, Released, Trained
from rollout.records import GroupKey

State = Literal["free", "leased", "buffered", "trained", "dropped", "evaluated"]


class IllegalTransition(ValueError):
    """An event that cannot follow what already happened to its group."""


@dataclass(slots=True)
class Entry:
    """What is known of one group."""

    state: State = "free"
    attempts: int = 0
    """How often it was leased."""
    worker: str = ""
    """Who holds it, or held it last."""
    iteration: int = -1
    """RLoop iteration whose RL phase generated it (or number of the evaluation)."""
    payload: PayloadRef | None = None
    """Its answers; None until they exist, and again when the weights that sampled them were lost."""
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
        self.refused: Counter[str] = Counter()
        """Late and duplicate deliveries that were turned away, by the state that the group was in."""
        self.lost: list[GroupKey] = []
        """Groups reopened by the newest `PhaseBegun` because the weights that sampled them were lost."""
        self._begun: dict[int, list[PhaseBegun]] = {}  # RL phases by iteration
        self._phase: PhaseBegun | None = None
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

    def buffered(self) -> list[GroupKey]:
        """Groups that wait to be trained."""
        return [key for key, entry in self.entries.items() if entry.state == "buffered"]

    def holds(self, worker: str, key: GroupKey) -> bool:
        """True when this worker has the group on lease."""
        entry = self.entries.get(key)
        return entry is not None and entry.state == "leased" and entry.worker == worker

    def was_trained(self, keys: Sequence[GroupKey], version: int) -> bool:
        """True when exactly this was recorded before."""
        entries = [self.entries.get(key) for key in keys]
        return all(e is not None and e.state == "trained" and e.trained_at == version for e in entries)

    def refuse(self, key: GroupKey) -> None:
        """Count a delivery that came late or twice."""
        self.refused[self.state(key)] += 1

    def apply(self, event: Event) -> None:
        """Take one event into account.

        Raises:
            IllegalTransition: When it cannot follow what happened before; nothing is changed.
        """
        match event:
            case PhaseBegun():
                self._begin(event)
            case Leased():
                entry = self.entries.setdefault(event.key, Entry())
                self._require(event, event.key, "free")
                entry.state, entry.worker, entry.attempts = "leased", event.worker, event.attempt + 1
            case Released():
                self._require(event, event.key, "leased").state = "free"
            case Finished():
                self._finish(event)
            case Dropped():
                entry = self._require(event, event.key, "buffered")
                entry.state, entry.reason = "dropped", event.reason
            case Trained():
                entries = [self._require(event, key, "buffered") for key in event.keys]
                for entry in entries:
                    entry.state, entry.trained_at = "trained", event.version

    def _finish(self, event: Finished) -> None:
        entry = self._require(event, event.key, "leased")
        if entry.worker != event.worker:
            raise IllegalTransition(f"{event.key} is leased to {entry.worker}, {event.worker} cannot finish it")
        entry.state, entry.reason = event.fate, event.reason
        entry.payload, entry.oldest, entry.newest = event.payload, event.oldest, event.newest
        entry.iteration = self._phase.iteration if self._phase else -1

    def _begin(self, event: PhaseBegun) -> None:
        self._phase, self.lost = event, []
        for entry in self.entries.values():
            if entry.state == "leased":
                entry.state = "free"
        if event.kind != "rl":
            return
        history = self._begun.setdefault(event.iteration, [])
        self._roll_back(event.iteration, _surviving_version(history, event))
        history.append(event)

    def _roll_back(self, iteration: int, version: int) -> None:
        """Undo what weights after `version` did in this phase: their samples are gone, their training is open."""
        for key, entry in self.entries.items():
            if key.purpose != "train" or entry.iteration != iteration or entry.payload is None:
                continue
            if entry.newest > version:
                entry.state, entry.payload = "free", None
                self.lost.append(key)
            elif entry.state == "trained" and entry.trained_at > version:
                entry.state = "buffered"

    def _require(self, event: Event, key: GroupKey, state: State) -> Entry:
        entry = self.entries.get(key)
        if entry is None or entry.state != state:
            raise IllegalTransition(f"{type(event).__name__} needs a group that is {state}, {key} is {self.state(key)}")
        return entry


def _surviving_version(history: Sequence[PhaseBegun], event: PhaseBegun) -> int:
    """Newest version of the lineage that goes on with `event`.

    Each step makes one version, so the weights after k steps have the number with which the phase was last begun at
    or before step k, plus the steps since. A phase begun anew gets a number above the lost ones or equal to one of
    them, so its own number alone could not tell them apart.
    """
    parents = [begun for begun in history if begun.done_steps <= event.done_steps]
    if not parents:
        return event.version
    return min(event.version, parents[-1].version + event.done_steps - parents[-1].done_steps)


class PromptOrder:
    """Which training prompt comes next: a seeded shuffle per epoch, entered where the ledger says.

    Within an epoch no prompt is skipped or repeated; one that becomes free again comes before all later ones.
    """

    def __init__(self, prompt_ids: Sequence[str], seed: int, ledger: Ledger) -> None:
        self._prompt_ids = prompt_ids
        self._seed = seed
        self._ledger = ledger
        self._orders: dict[int, list[str]] = {}
        self._places: dict[int, dict[str, int]] = {}
        self._freed: list[tuple[int, int]] = []  # heap of (epoch, place) before the cursor
        self.rewind()

    def rewind(self) -> None:
        """Derive the cursor from the ledger: behind the last prompt that was ever touched."""
        known = set(self._prompt_ids)
        keys = [key for key in self._ledger.entries if key.purpose == "train" and key.prompt_id in known]
        epoch = max((key.epoch for key in keys), default=0)
        places = [self._place(key) for key in keys if key.epoch == epoch]
        self._epoch, self._cursor = epoch, max(places, default=-1) + 1
        touched = [(e, place) for e in range(epoch) for place in range(len(known))]
        touched += [(epoch, place) for place in range(self._cursor)]
        self._freed = [at for at in touched if self._ledger.state(self._key(*at)) == "free"]  # sorted: a heap

    def __len__(self) -> int:
        return len(self._prompt_ids)

    def next(self) -> GroupKey:
        """Take the next free group."""
        if self._freed:
            return self._key(*heapq.heappop(self._freed))
        if self._cursor == len(self._prompt_ids):
            self._epoch, self._cursor = self._epoch + 1, 0
        self._cursor += 1
        return self._key(self._epoch, self._cursor - 1)

    def put_back(self, key: GroupKey) -> None:
        """The group is free again."""
        heapq.heappush(self._freed, (key.epoch, self._place(key)))

    def position(self, key: GroupKey) -> tuple[int, int]:
        """(epoch, place within it): where a training group stands in the order."""
        return key.epoch, self._place(key)

    def _key(self, epoch: int, place: int) -> GroupKey:
        return GroupKey("train", epoch, self._order(epoch)[place])

    def _place(self, key: GroupKey) -> int:
        self._order(key.epoch)
        return self._places[key.epoch][key.prompt_id]

    def _order(self, epoch: int) -> list[str]:
        if epoch not in self._orders:
            shuffled = np.random.default_rng([self._seed, epoch]).permutation(len(self._prompt_ids))
            self._orders[epoch] = [self._prompt_ids[i] for i in shuffled]
            self._places[epoch] = {prompt_id: place for place, prompt_id in enumerate(self._orders[epoch])}
        return self._orders[epoch]
