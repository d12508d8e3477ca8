"""Which answers made which weights, and what happened to one prompt: queries over the journal.

Reads only, without a lock: of a run under way it sees what is durable. It knows policy versions and iterations, not
the names of checkpoints (`cluster.audit` does).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

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
    Trained,
    replay,
)
from rollout.journal import read_payloads
from rollout.ledger import Ledger
from rollout.records import GroupKey
from rollout.storage import Storage


class Lineage:
    """The training steps that the surviving weights of each RL phase are made of.

    A phase taken up after k steps keeps the first k; what came after them did not happen. This is derived from the
    counts of steps alone, not from version numbers as in the ledger, so that the two can be held against each other.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.steps: dict[int, list[Trained]] = {}
        """Iteration → its steps, in order."""
        self._begun: dict[int, tuple[int, int]] = {}  # version → (iteration, steps) with which a phase was begun
        self._iteration = -1
        for event in events:
            if isinstance(event, PhaseBegun):
                self.begin(event)
            elif isinstance(event, Trained):
                self.train(event)

    def begin(self, event: PhaseBegun) -> int:
        """A phase starts or is taken up. Returns how many of the steps that it builds on were never recorded."""
        if event.kind != "rl":
            return 0
        self._iteration = event.iteration
        self._begun[event.version] = (event.iteration, event.done_steps)
        steps = self.steps.setdefault(event.iteration, [])
        missing = max(0, event.done_steps - len(steps))
        del steps[event.done_steps :]
        return missing

    def train(self, event: Trained) -> None:
        """One step."""
        self.steps.setdefault(self._iteration, []).append(event)

    def find(self, version: int) -> tuple[int, int] | None:
        """(iteration, steps of its RL phase) behind a policy version; None when it is not of a surviving RL phase."""
        for iteration, steps in self.steps.items():
            for number, step in enumerate(steps, start=1):
                if step.version == version:
                    return iteration, number
        return self._begun.get(version)


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a stretch of RL steps was trained on."""

    steps: int
    groups: int
    prompts: int
    samples: int
    """Answers with a verdict; siblings without one are not trained."""
    tokens: int
    """Sampled tokens of those answers."""


def contribution(journal: Storage, steps: Iterable[Trained]) -> Contribution:
    """Count the groups of these surviving steps, and the answers in them."""
    steps = list(steps)
    keys = {key for step in steps for key in step.keys}
    entries = Ledger(replay(journal)).entries
    refs = [payload for key in keys if (payload := entries[key].payload) is not None]
    samples = tokens = 0
    for _, batch in read_payloads(journal, refs):
        scored = np.asarray(batch["reward"].is_valid())
        samples += int(scored.sum())
        tokens += int(np.asarray(batch["token_ids"].value_lengths())[scored].sum())
    return Contribution(len(steps), len(keys), len({key.prompt_id for key in keys}), samples, tokens)


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened to a group of one prompt."""

    number: int
    """Place in the log, from 1."""
    key: GroupKey
    phase: str
    """`rl 0`, `eval 1000`: where the run was."""
    what: str
    """The event: `leased`, `progressed`, `released`…; or what a phase taken up again did to it."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One delivered answer of the prompt."""

    number: int
    """Place in the log of its delivery."""
    key: GroupKey
    sample_index: int
    reward: float | None
    verdict: str
    tokens: int
    oldest: int
    newest: int
    """Policy versions that sampled it; -1 without tokens."""
    finish_reason: str
    feedback: str


def life(journal: Storage, prompt_id: str) -> tuple[list[Moment], list[Answer]]:
    """Everything that the journal says of a prompt: events in order, and the answers that came in."""
    moments: list[Moment] = []
    deliveries: dict[PayloadRef, int] = {}
    ledger, phase = Ledger(), ""
    for number, event in enumerate(replay(journal), start=1):
        own = _states(ledger, prompt_id) if isinstance(event, PhaseBegun) else {}
        ledger.apply(event)
        match event:
            case Opened():
                pass
            case PhaseBegun():
                phase = f"{event.kind} {event.iteration}"
                for key, (state, payload) in own.items():
                    if what := _undone(state, payload, ledger, key):
                        moments.append(Moment(number, key, phase, what, f"taken up after {event.done_steps} steps"))
            case Trained():
                note = f"made version {event.version}"
                moments += [
                    Moment(number, key, phase, "trained", note) for key in event.keys if key.prompt_id == prompt_id
                ]
            case _ if event.key.prompt_id == prompt_id:
                moments.append(Moment(number, event.key, phase, *_told(event)))
                if isinstance(event, Finished):
                    deliveries[event.payload] = number
    return moments, list(_answers(journal, deliveries))


def _states(ledger: Ledger, prompt_id: str) -> dict[GroupKey, tuple[str, PayloadRef | None]]:
    return {key: (e.state, e.payload) for key, e in ledger.entries.items() if key.prompt_id == prompt_id}


def _undone(state: str, payload: PayloadRef | None, ledger: Ledger, key: GroupKey) -> str:
    """What a `PhaseBegun` did to a group that was in `state`; empty for nothing."""
    after = ledger.entries[key]
    if payload is not None and after.payload is None:
        return "lost with the weights that sampled it"
    if state == after.state:
        return ""
    return "lease voided" if state == "leased" else "training undone"


def _told(event: Leased | Progressed | Released | Discarded | Refused | Finished | Dropped) -> tuple[str, str]:
    match event:
        case Leased():
            return "leased", f"by {event.worker}, attempt {event.attempt}"
        case Progressed():
            return "progressed", f"{event.tokens} tokens by {event.worker}, attempt {event.attempt}"
        case Released():
            return "released", event.reason
        case Discarded():
            samples = " ".join(map(str, event.samples))
            return "discarded", f"{event.tokens} tokens of answers {samples}: {event.reason}"
        case Refused():
            return "refused", f"{event.what} of {event.worker}, attempt {event.attempt}: the group is {event.state}"
        case Finished():
            fate = f"{event.fate} ({event.reason})" if event.reason else event.fate
            return "finished", f"by {event.worker}, versions {event.oldest}-{event.newest}: {fate}"
        case Dropped():
            return "dropped", event.reason


def _answers(journal: Storage, deliveries: dict[PayloadRef, int]) -> Iterable[Answer]:
    columns = ["purpose", "epoch", "prompt_id", "sample_index", "reward", "verdict_status", "oldest_version"]
    for ref, batch in read_payloads(journal, deliveries):
        lengths = batch["token_ids"].value_lengths().to_pylist()
        rows = batch.select([*columns, "newest_version", "finish_reason", "feedback"]).to_pylist()
        for row, tokens in zip(rows, lengths, strict=True):
            yield Answer(
                deliveries[ref],
                GroupKey(row["purpose"], row["epoch"], row["prompt_id"]),
                row["sample_index"],
                row["reward"],
                row["verdict_status"],
                tokens,
                row["oldest_version"],
                row["newest_version"],
                row["finish_reason"],
                row["feedback"],
            )
