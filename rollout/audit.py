"""The balance of a run: every group that was issued, every answer and token that came in, and what became of them.

A fold over the journal that keeps no book of its own and believes none: what was issued is counted from leases, what
was trained from *trained* records (`provenance.Lineage`), every other fate from the ledger, and what was generated
from the segments as they lie on the disk. The sums close only if these four agree. Reads only, without a lock: of a
run under way or killed it sees what is durable.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from rollout.balance import UNDELIVERED, Balance, PhaseId, total
from rollout.events import Event, Finished, Leased, PayloadRef, PhaseBegun, Released, Trained, replay
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
    lineage: Lineage = field(default_factory=Lineage)


def audit(journal: Storage, answers: Mapping[str, int], max_staleness: float) -> Audit:
    """Audit a journal.

    Args:
        journal: Its folder.
        answers: Answers per group, by kind of phase (`rl`, `eval`).
        max_staleness: The bound η that trained tokens must keep.
    """
    fold = _Fold()
    for event in replay(journal):  # the log first: what it refers to is then in the segments
        fold.apply(event)
    balances = _count(fold, answers)
    faults = fold.faults + _weigh(fold, balances, journal, max_staleness)
    phases = tuple(balances.values())
    run = total(phases)
    gaps = [gap for balance in (*phases, run) for gap in balance.gaps()]
    return Audit(run, phases, tuple(faults + gaps), fold.number, fold.lineage)


class _Fold:
    """The ledger, with what it forgets: leases that ended, deliveries that were lost, why a group is free."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.lineage = Lineage()
        self.number = 0
        self.faults: list[str] = []
        self.phase = PhaseId("none", 0)
        self.home: dict[GroupKey, PhaseId] = {}  # phase of a group's last lease
        self.leases: dict[PhaseId, Counter[str]] = {}
        self.out: set[GroupKey] = set()  # on lease
        self.freed: dict[GroupKey, str] = {}
        self.delivered: dict[GroupKey, PayloadRef] = {}
        self.lost: set[PayloadRef] = set()

    def apply(self, event: Event) -> None:
        """Take one event into account; one that cannot be is a fault, and the fold goes on."""
        self.number += 1
        try:
            self.ledger.apply(event)
        except IllegalTransition as illegal:
            self.faults.append(f"event {self.number}: {illegal}")
            if not isinstance(event, Trained):  # what it says was trained was trained, allowed or not
                return
        match event:
            case PhaseBegun():
                self._begin(event)
            case Leased():
                self.home[event.key] = self.phase
                self.out.add(event.key)
                self.leases[self.phase]["issued"] += 1
            case Released():
                self._end(event.key, event.reason)
                self.freed[event.key] = event.reason
            case Finished():
                self._end(event.key, "finished")
                self.delivered[event.key] = event.payload
            case Trained():
                self.lineage.train(event)

    def _begin(self, event: PhaseBegun) -> None:
        if missing := self.lineage.begin(event):
            self.faults.append(
                f"event {self.number}: {event.kind} {event.iteration} goes on after step {event.done_steps}, "
                f"but {missing} of these steps have no trained record"
            )
        for key in list(self.out):
            self._end(key, "voided")
            self.freed[key] = "voided"
        self.phase = PhaseId(event.kind, event.iteration)
        self.leases.setdefault(self.phase, Counter())

    def _end(self, key: GroupKey, how: str) -> None:
        self.out.discard(key)
        self.leases[self.home[key]][how] += 1


def _count(fold: _Fold, answers: Mapping[str, int]) -> dict[PhaseId, Balance]:
    """Groups by fate, per phase of their last lease; and the answers of groups that have none yet."""
    balances = {
        phase: Balance(phase, leases=leases, steps=_steps(fold, phase))
        for phase, leases in fold.leases.items()
        if leases
    }
    for key in fold.out:
        fold.leases[fold.home[key]]["running"] += 1
    for key, phase in fold.home.items():
        balance, size = balances[phase], answers[phase.kind]
        balance.groups["issued"] += 1
        balance.samples["issued"] += size
        fate = _fate(fold, key)
        if fate != "trained":  # those are counted from their records
            balance.groups[fate] += 1
        if fate.startswith(UNDELIVERED):
            balance.samples[fate] += size
    for key, versions in _trained_at(fold.lineage).items():
        if key in fold.home:  # else the ledger has refused it already
            balances[fold.home[key]].groups["trained"] += len(versions)
    return balances


def _steps(fold: _Fold, phase: PhaseId) -> int:
    return len(fold.lineage.steps.get(phase.iteration, ())) if phase.kind == "rl" else 0


def _weigh(fold: _Fold, balances: dict[PhaseId, Balance], journal: Storage, max_staleness: float) -> list[str]:
    """Answers and tokens by fate, lengths and ages, from the segments. Returns the faults found."""
    trained = _trained_at(fold.lineage)
    owners = {ref: key for key, ref in fold.delivered.items()}
    faults = [f"{_name(key)} was trained {len(v)} times, at versions {v}" for key, v in trained.items() if len(v) > 1]
    for ref, batch in _payloads(journal):
        phase = PhaseId("rl" if batch["purpose"][0].as_py() == "train" else "eval", batch["iteration"][0].as_py())
        balance = balances.setdefault(phase, Balance(phase))
        lengths = batch["token_ids"].value_lengths().to_numpy()
        _add(balance, "generated", lengths)
        key = owners.pop(ref, None)
        versions = trained.get(key, []) if key else []
        if key is None:
            _add(balance, "lost_lineage" if ref in fold.lost else "unrecorded", lengths)
            fold.lost.discard(ref)
        elif not versions:
            _add(balance, _fate(fold, key), lengths)
        for version in versions:
            assert key is not None
            scored = np.asarray(batch["reward"].is_valid())
            _add(balance, "trained", lengths[scored])
            _add(balance, "dropped/unscored", lengths[~scored])
            ages, counts = np.unique(_ages(batch, version - 1, scored), return_counts=True)
            balance.ages.update(dict(zip(ages.tolist(), counts.tolist(), strict=True)))
            faults += _out_of_bound(key, version, ages.tolist(), max_staleness)
    faults += [f"the answers of {_name(key)} are not in the journal ({ref})" for ref, key in owners.items()]
    return faults + [f"lost answers are not in the journal ({ref})" for ref in fold.lost]


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


def _trained_at(lineage: Lineage) -> dict[GroupKey, list[int]]:
    versions: dict[GroupKey, list[int]] = {}
    for steps in lineage.steps.values():
        for step in steps:
            for key in step.keys:
                versions.setdefault(key, []).append(step.version)
    return versions


def _payloads(journal: Storage) -> Iterator[tuple[PayloadRef, pa.RecordBatch]]:
    """Every whole record batch on the disk, one segment open at a time."""
    for segment in segments(journal):
        for number, batch in read_segment(journal, segment):
            yield PayloadRef(segment, number), batch


def _add(balance: Balance, account: str, lengths: np.ndarray) -> None:
    """Book answers of these lengths on an account."""
    if len(lengths):
        balance.samples[account] += len(lengths)
        balance.tokens[account] += int(lengths.sum())
        balance.lengths.setdefault(account, Counter()).update(lengths.tolist())


def _ages(batch: pa.RecordBatch, version: int, scored: np.ndarray) -> np.ndarray:
    """[tokens] age of what the step that started from `version` trained: masked-in tokens of scored siblings."""
    mask = np.asarray(batch["loss_mask"].flatten())
    of_scored = np.repeat(scored, batch["token_ids"].value_lengths().to_numpy())
    return version - np.asarray(batch["versions"].flatten())[mask & of_scored]


def _out_of_bound(key: GroupKey, version: int, ages: list[int], max_staleness: float) -> list[str]:
    if not ages:
        return []
    faults = []
    if ages[-1] > max_staleness:
        faults.append(
            f"{_name(key)}: the step that made version {version} trained tokens {ages[-1]} versions old, "
            f"the bound is {max_staleness:g}"
        )
    if ages[0] < 0:
        faults.append(
            f"{_name(key)}: the step that made version {version} trained tokens of version {version - 1 - ages[0]}, "
            f"which did not exist yet"
        )
    return faults


def _name(key: GroupKey) -> str:
    return f"{key.purpose}/{key.epoch}/{key.prompt_id}"
