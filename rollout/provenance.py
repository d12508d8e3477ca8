"""Which answers made which weights, and what happened to one prompt: queries over the journal.

Reads only, without a lock: of a run under way it sees what is durable. It knows policy versions and iterations, not
the names of checkpoints (`cluster.audit` does).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rollout.continuation import Reports
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
    TakenUp,
    Tightened,
    Trained,
    replay,
)
from rollout.journal import read_payloads
from rollout.ledger import Ledger
from rollout.records import GroupKey, Piece
from rollout.storage import Storage


class Lineage:
    """The training steps that the weights of each RL phase are made of: its *trained* records, in order.

    A phase that is taken up at an earlier checkpoint trains the recorded steps after it again, so a step that is
    recorded once stays. This is counted from the records alone, apart from the ledger's count, so that the two can be
    held against each other.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.steps: dict[int, list[Trained]] = {}
        """Iteration → its steps, in order."""
        self._begun: dict[int, int] = {}  # version → iteration whose RL phase began or went on with it
        self._iteration = -1
        self._version: int | None = None  # with which the RL phase under way began or went on
        for event in events:
            if isinstance(event, PhaseBegun):
                self.begin(event)
            elif isinstance(event, Trained):
                self.train(event)

    def begin(self, event: PhaseBegun) -> list[str]:
        """A phase starts or is taken up. Returns what is wrong with that."""
        if event.kind == "eval":
            return []  # beside the phase under way
        self._version = None
        if event.kind != "rl":
            return []
        self._iteration, self._version = event.iteration, event.version
        self._begun[event.version] = event.iteration
        return self.go_on(event)

    def go_on(self, event: PhaseBegun | TakenUp) -> list[str]:
        """An RL phase goes on after some of its steps. Returns what is wrong with that."""
        steps, done = self.steps.setdefault(event.iteration, []), event.done_steps
        if missing := max(0, done - len(steps)):
            return [f"rl {event.iteration} goes on after step {done}, but {missing} of these steps have no record"]
        if not steps:
            return []
        reached = steps[done].version - 1 if done < len(steps) else steps[-1].version
        if event.version == reached:
            return []
        return [
            f"rl {event.iteration} goes on after step {done} with version {event.version}, but by the records it "
            f"then had version {reached}"
        ]

    def train(self, event: Trained) -> list[str]:
        """One step. Returns what is wrong with it."""
        steps, begun = self.steps.setdefault(self._iteration, []), self._version
        steps.append(event)
        if begun is None:
            return [f"version {event.version} was trained outside an RL phase"]
        before = steps[-2].version if steps[1:] else begun
        if event.version == before + 1:
            return []
        return [f"rl {self._iteration} made version {event.version} in the step from version {before}"]

    def trained(self) -> dict[GroupKey, list[int]]:
        """Group → versions that it was trained for: one, if all is well."""
        versions: dict[GroupKey, list[int]] = {}
        for steps in self.steps.values():
            for step in steps:
                for key in step.keys:
                    versions.setdefault(key, []).append(step.version)
        return versions

    def find(self, version: int) -> tuple[int, int] | None:
        """(iteration, steps of its RL phase) behind a policy version; None when it is not of an RL phase."""
        for iteration, steps in self.steps.items():
            for number, step in enumerate(steps, start=1):
                if step.version == version:
                    return iteration, number
        return (self._begun[version], 0) if version in self._begun else None


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
    """Count the groups of these steps, and the answers in them."""
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


class _Told(NamedTuple):
    key: GroupKey
    what: str
    note: str
    samples: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened to a group of one prompt."""

    number: int
    """Place in the log, from 1."""
    phase: str
    """`rl 0`, `eval 1000`: where the run was."""
    key: GroupKey
    what: str
    """The event: `leased`, `progressed`, `released`…; or what a phase that was begun again did to it."""
    note: str = ""
    samples: frozenset[int] | None = None
    """Answers that it is about; None for all of the group."""


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
    ledger, phase, reports = Ledger(), "", Reports(journal)
    for number, event in enumerate(replay(journal), start=1):
        leased = [key for key in _known(ledger, prompt_id) if ledger.state(key) == "leased"]
        ledger.apply(event)
        match event:
            case Opened() | Tightened():
                continue
            case PhaseBegun():
                phase = f"{event.kind} {event.iteration}"
                voided = [key for key in leased if ledger.state(key) == "free"]
                told = [_Told(key, "lease voided", "by a phase that began") for key in voided]
                told += _trained_again(event, ledger) if event.kind == "rl" else []
            case TakenUp():
                told = _trained_again(event, ledger)
            case Trained():
                told = [_Told(key, "trained", f"made version {event.version}") for key in event.keys]
            case _ if event.key.prompt_id == prompt_id:
                told = [_tell(event, reports)]
                if isinstance(event, Finished):
                    deliveries[event.payload] = number
            case _:
                continue
        moments += [Moment(number, phase, *each) for each in told if each.key.prompt_id == prompt_id]
    return moments, list(_answers(journal, deliveries))


def _known(ledger: Ledger, prompt_id: str) -> list[GroupKey]:
    return [key for key in ledger.entries if key.prompt_id == prompt_id]


def _trained_again(event: PhaseBegun | TakenUp, ledger: Ledger) -> "list[_Told]":
    steps = ledger.steps.get(event.iteration, [])
    return [
        _Told(key, "to be trained again", f"made version {step.version}; taken up after {event.done_steps} steps")
        for step in steps[event.done_steps :]
        for key in step.keys
    ]


def _tell(
    event: Leased | Progressed | Released | Discarded | Refused | Finished | Dropped, reports: Reports
) -> "_Told":
    match event:
        case Leased():
            return _Told(event.key, "leased", f"by {event.worker}, attempt {event.attempt}")
        case Progressed():
            return _tell_progress(event, reports.pieces(event))
        case Released():
            return _Told(event.key, "released", event.reason)
        case Discarded():
            samples = " ".join(map(str, event.samples))
            note = f"{event.tokens} tokens of answers {samples}: {event.reason}"
            return _Told(event.key, "discarded", note, frozenset(event.samples))
        case Refused():
            by = f"{event.what} of {event.worker}, attempt {event.attempt}, {event.tokens} tokens"
            return _Told(event.key, "refused", f"{by}: the group was {event.state}")
        case Finished():
            fate = f"{event.fate} ({event.reason})" if event.reason else event.fate
            note = f"by {event.worker}, versions {event.oldest}-{event.newest}: {fate}"
            return _Told(event.key, "finished", note)
        case Dropped():
            return _Told(event.key, "dropped", event.reason)


def _tell_progress(event: Progressed, pieces: tuple[Piece, ...] | None) -> "_Told":
    """Which answers the tokens are of can be told while the pieces are there."""
    note = f"{event.tokens} tokens by {event.worker}, attempt {event.attempt}"
    if pieces is None:
        return _Told(event.key, "progressed", note)
    note += ": " + ", ".join(f"answer {piece.sample_index} has {piece.end}{_state(piece)}" for piece in pieces)
    return _Told(event.key, "progressed", note, frozenset(piece.sample_index for piece in pieces))


def _state(piece: Piece) -> str:
    known = (piece.segment.finish_reason, piece.verdict and piece.verdict.status)
    return "".join(f" {word}" for word in known if word)


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
