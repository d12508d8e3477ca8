"""The balance of a run: every group that was issued, every answer and token that came in, and what became of them.

A fold over the journal that keeps no book of its own and believes none: what was issued is counted from leases, what
was trained from *trained* records (`provenance.Lineage`), every other fate from the ledger, what was generated from
the segments as they lie on the disk, what is unfinished from the pieces there. The sums close only if these agree.
Reads only, without a lock: of a run under way or killed it sees what is durable.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from rollout.balance import Balance, PhaseId, total
from rollout.continuation import Continuation, name
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
    Trained,
    read_log,
)
from rollout.ledger import IllegalTransition, Ledger
from rollout.provenance import Lineage
from rollout.records import GroupKey
from rollout.segments import read_segment, segments
from rollout.storage import Storage


@dataclass(frozen=True, slots=True)
class Audit:
    """The balances of a run and what is wrong with it."""

    run: Balance
    phases: tuple[Balance, ...]
    faults: tuple[str, ...]
    """Sums that do not close, groups trained twice, tokens out of the bound, records that cannot be."""
    events: int = 0
    starts: int = 0
    """How often a writer took the journal."""
    ignored: int = 0
    """Records that writers appended after they had lost the journal to another one; they count for nothing."""
    lineage: Lineage = field(default_factory=Lineage)


def audit(journal: Storage, answers: Mapping[str, int], max_staleness: float) -> Audit:
    """Audit a journal.

    Args:
        journal: Its folder.
        answers: Answers per group, by kind of phase (`rl`, `sample`, `eval`).
        max_staleness: The bound η that trained tokens must keep.
    """
    fold = _read(journal)
    if fold.missing:  # a run under way removes pieces of groups that finished since: the log says so by now
        fold = _read(journal)
    _count(fold, answers)
    faults = [*fold.faults, *_disagreements(fold), *_weigh(fold, journal, max_staleness)]
    phases = tuple(replace(balance, steps=_steps(fold, phase)) for phase, balance in fold.balances.items())
    run = total(phases)
    faults += [gap for balance in (*phases, run) for gap in balance.gaps()]
    return Audit(run, phases, tuple(faults), fold.number, fold.starts, fold.ignored, fold.lineage)


def _read(journal: Storage) -> "_Fold":
    """The log first: what it refers to is then in the segments."""
    fold, newest = _Fold(journal), 0
    for record in read_log(journal):
        if isinstance(record.event, Opened):
            newest = max(newest, record.incarnation)
        if record.incarnation < newest:
            fold.ignored += 1
        else:
            fold.apply(record.event)
    return fold


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A finished group, as it came in."""

    key: GroupKey
    number: int
    """Place in the log."""
    persisted: int
    """Tokens that were known before."""
    recycled: bool
    """True when its last lease began with some of them."""


class _Fold:
    """The ledger, with what it forgets: leases that ended, tokens that came and went, why a group is free."""

    def __init__(self, journal: Storage) -> None:
        self.ledger = Ledger()
        self.lineage = Lineage()
        self.continuation = Continuation(journal)
        self.number = self.starts = self.ignored = 0
        self.faults: list[str] = []
        self.balances: dict[PhaseId, Balance] = {}
        self.home: dict[GroupKey, Balance] = {}  # phase of a group's last lease
        self.out: dict[GroupKey, int] = {}  # on lease → which attempt
        self.freed: dict[GroupKey, str] = {}
        self.persisted: dict[GroupKey, int] = {}  # tokens of unfinished groups, as the log has them
        self.recycled: set[GroupKey] = set()
        self.left: dict[tuple[GroupKey, int], int] = {}  # lease that ended without a result → tokens it left behind
        self.delivered: dict[PayloadRef, _Delivery] = {}
        self.delivered_by: set[tuple[GroupKey, int]] = set()  # leases that ended with a result
        self.born: dict[int, int] = {}  # policy version → place in the log of what made it, or began with it
        self.explored_by: dict[int, str] = {}  # iteration → kind of the phase that generated for it
        self._phase = PhaseId("none", 0)  # the one that trains or samples; evaluations go on beside it

    @property
    def missing(self) -> list[GroupKey]:
        """Unfinished groups whose pieces are not on the disk."""
        return [key for key, tokens in self.continuation.held().items() if tokens is None]

    def balance(self, phase: PhaseId) -> Balance:
        """The balance of a phase, from the first time it is asked for."""
        return self.balances.setdefault(phase, Balance(phase))

    def apply(self, event: Event) -> None:
        """Take one event into account; one that cannot be is a fault, and the fold goes on."""
        self.number += 1
        try:
            self.ledger.apply(event)
        except IllegalTransition as illegal:
            self._fault(str(illegal))
            if not isinstance(event, Trained):  # what it says was trained was trained, allowed or not
                return
        match event:
            case Opened():
                self.starts += 1
            case PhaseBegun():
                self._begin(event)
            case TakenUp():
                self._fault(*self.lineage.go_on(event))
            case Leased():
                self._lease(event)
            case Progressed():
                self._fault(*self.continuation.progressed(event))
                self.persisted[event.key] = self.persisted.get(event.key, 0) + event.tokens
                self.home[event.key].tokens["known"] += event.tokens
            case Released():
                self._free(event.key, event.reason)
            case Discarded():
                self._discard(event)
            case Refused():
                self._refuse(event)
            case Finished():
                self._finish(event)
            case Dropped():
                self.continuation.dropped(event)
            case Trained():
                self.born.setdefault(event.version, self.number)
                self._fault(*self.lineage.train(event))

    def _fault(self, *sentences: str) -> None:
        self.faults += [f"event {self.number}: {sentence}" for sentence in sentences]

    def _begin(self, event: PhaseBegun) -> None:
        for key in [key for key in self.out if event.kind != "eval" or key.purpose == "eval"]:
            self._free(key, "voided")
        if event.kind != "eval":
            self._phase = PhaseId(event.kind, event.iteration)
        if event.kind in ("rl", "sample"):
            self.explored_by[event.iteration] = event.kind
        self.born.setdefault(event.version, self.number)
        self._fault(*self.lineage.begin(event))

    def _phase_of(self, key: GroupKey) -> PhaseId:
        return PhaseId("eval", key.epoch) if key.purpose == "eval" else self._phase

    def _lease(self, event: Leased) -> None:
        balance, tokens = self.balance(self._phase_of(event.key)), self.persisted.get(event.key, 0)
        if tokens:  # they go where the group goes
            self.home[event.key].tokens["known"] -= tokens
            balance.tokens["known"] += tokens
            self.recycled.add(event.key)
        else:
            self.recycled.discard(event.key)
        self.home[event.key] = balance
        self.out[event.key] = event.attempt
        balance.leases["issued"] += 1

    def _free(self, key: GroupKey, reason: str) -> None:
        self.left[key, self._end(key, reason)] = self.persisted.get(key, 0)
        self.freed[key] = reason

    def _end(self, key: GroupKey, how: str) -> int:
        self.home[key].leases[how] += 1
        return self.out.pop(key)

    def _discard(self, event: Discarded) -> None:
        self._fault(*self.continuation.discarded(event))
        balance, account = self.home[event.key], f"discarded/{event.reason}"
        balance.book(account, np.array(event.lengths, np.int64))
        self.persisted[event.key] = self.persisted.get(event.key, 0) - event.tokens

    def _refuse(self, event: Refused) -> None:
        balance = self.home.get(event.key) or self.balance(self._phase_of(event.key))
        lease = (event.key, event.attempt)
        if lease in self.delivered_by:
            what, tokens = "duplicate", event.tokens
        else:  # a late delivery has the tokens once more that its lease left behind
            kept = self.left.get(lease, 0) if event.what == "finish" else 0
            what, tokens = "late", max(0, event.tokens - kept)
        balance.refused[what] += 1
        balance.tokens[f"refused/{what}"] += tokens

    def _finish(self, event: Finished) -> None:
        self._fault(*self.continuation.finished(event))
        key, tokens = event.key, self.persisted.pop(event.key, 0)
        self.delivered_by.add((key, self._end(key, "finished")))
        self.delivered[event.payload] = _Delivery(key, self.number, tokens, key in self.recycled)


def _count(fold: _Fold, answers: Mapping[str, int]) -> None:
    """Groups by fate, per phase of their last lease; the answers and tokens of groups that have not finished."""
    for key in fold.out:
        fold.home[key].leases["running"] += 1
    for key, balance in fold.home.items():
        size, fate = answers[balance.phase.kind], _fate(fold, key)
        balance.groups["issued"] += 1
        balance.samples["issued"] += size
        if fate != "trained":  # those are counted from their records
            balance.groups[fate] += 1
        if fold.ledger.entries[key].payload is None:
            balance.samples["dropped/undelivered" if fate.startswith("dropped/") else fate] += size
    for key, versions in fold.lineage.trained().items():
        if key in fold.home:  # else the ledger has refused it already
            fold.home[key].groups["trained"] += len(versions)
    for key, tokens in fold.continuation.held().items():
        if tokens:
            fold.home[key].tokens[f"partial/{_fate(fold, key)}"] += tokens


def _steps(fold: _Fold, phase: PhaseId) -> int:
    return len(fold.lineage.steps.get(phase.iteration, ())) if phase.kind == "rl" else 0


def _disagreements(fold: _Fold) -> list[str]:
    """What can be told without the answers."""
    ledger, lineage = fold.ledger.steps, fold.lineage.steps
    return [
        *(
            f"{name(key)} was trained {len(v)} times, at versions {v}"
            for key, v in fold.lineage.trained().items()
            if v[1:]
        ),
        *(f"the pieces of {name(key)}, which is unfinished, are not in the journal" for key in fold.missing),
        *(
            f"rl {iteration}: the ledger has {len(ledger.get(iteration, []))} steps, the records {len(steps)}"
            for iteration, steps in lineage.items()
            if steps != ledger.get(iteration, [])
        ),
    ]


def _weigh(fold: _Fold, journal: Storage, max_staleness: float) -> list[str]:
    """Answers and tokens by fate, lengths and ages, from the segments. Returns the faults found."""
    trained, awaited, faults = fold.lineage.trained(), dict(fold.delivered), []
    for ref, batch in _payloads(journal):
        iteration = batch["iteration"][0].as_py()
        kind = fold.explored_by.get(iteration, "rl") if batch["purpose"][0].as_py() == "train" else "eval"
        balance = fold.balance(PhaseId(kind, iteration))
        lengths = batch["token_ids"].value_lengths().to_numpy()
        balance.book("generated", lengths)
        delivery = awaited.pop(ref, None)
        if delivery is None:
            balance.book("unrecorded", lengths)
            continue
        faults += _newly_known(fold, delivery, lengths) + _unborn(fold, delivery, batch)
        versions = trained.get(delivery.key, [])
        if not versions:
            balance.book(_fate(fold, delivery.key), lengths)
        for version in versions:
            faults += _weigh_trained(balance, delivery.key, batch, version, max_staleness)
    lost = [f"the answers of {name(delivery.key)} are not in the journal ({ref})" for ref, delivery in awaited.items()]
    return faults + lost


def _newly_known(fold: _Fold, delivery: _Delivery, lengths: np.ndarray) -> list[str]:
    """Book what came in with the answers that was not known of them before."""
    balance, tokens = fold.home[delivery.key], int(lengths.sum())
    balance.tokens["known"] += tokens - delivery.persisted
    if delivery.recycled:
        balance.book("recycled", lengths)
    if tokens >= delivery.persisted:
        return []
    return [f"{name(delivery.key)} came in with {tokens} tokens, but {delivery.persisted} were persisted of it"]


def _unborn(fold: _Fold, delivery: _Delivery, batch: pa.RecordBatch) -> list[str]:
    """Versions may be seen by engines only once what made them is durable."""
    everyone = np.ones(batch.num_rows, np.bool_)
    unborn = [v for v in _versions(batch, everyone) if fold.born.get(v, delivery.number) >= delivery.number]
    return [
        f"event {delivery.number}: {name(delivery.key)} came in with tokens of version {version}, which no *trained* "
        f"record and no phase had named before"
        for version in unborn
    ]


def _weigh_trained(
    balance: Balance, key: GroupKey, batch: pa.RecordBatch, version: int, max_staleness: float
) -> list[str]:
    """Book a group that the step trained which made `version`; unscored siblings were left out."""
    lengths = batch["token_ids"].value_lengths().to_numpy()
    scored = np.asarray(batch["reward"].is_valid())
    balance.book("trained", lengths[scored])
    balance.book("dropped/unscored", lengths[~scored])
    versions = _versions(batch, scored)
    for sampled, count in versions.items():
        balance.ages[version - 1 - sampled] += count
    step, faults = f"{name(key)}: the step that made version {version} trained tokens", []
    if versions and (age := version - 1 - min(versions)) > max_staleness:
        faults.append(f"{step} {age} versions old, the bound is {max_staleness:g}")
    if versions and max(versions) >= version:
        faults.append(f"{step} of version {max(versions)}, which did not exist yet")
    return faults


def _versions(batch: pa.RecordBatch, siblings: np.ndarray) -> dict[int, int]:
    """Policy version → masked-in tokens that it sampled, of some siblings."""
    mask = np.asarray(batch["loss_mask"].flatten())
    wanted = np.repeat(siblings, batch["token_ids"].value_lengths().to_numpy())
    versions, counts = np.unique(np.asarray(batch["versions"].flatten())[mask & wanted], return_counts=True)
    return dict(zip(versions.tolist(), counts.tolist(), strict=True))


def _fate(fold: _Fold, key: GroupKey) -> str:
    entry = fold.ledger.entries[key]
    match entry.state:
        case "free":
            return f"free/{fold.freed[key]}"
        case "dropped":
            return f"dropped/{entry.reason}"
        case "leased":
            return "running"
        case "buffered":
            return "waiting"
        case state:
            return state


def _payloads(journal: Storage) -> Iterator[tuple[PayloadRef, pa.RecordBatch]]:
    """Every whole record batch on the disk, one segment open at a time."""
    for segment in segments(journal):
        for number, batch in read_segment(journal, segment):
            yield PayloadRef(segment, number), batch
