"""The accounts of an audit: groups, answers, tokens and leases by fate, and whether their sums close.

Plain counting; where the numbers come from is `rollout.audit`'s business.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

UNDELIVERED = ("running", "free/", "dropped/undelivered")  # fates without answers
BESIDE = ("issued", "generated", "known", "recycled", "unrecorded", "partial/", "discarded/", "refused/")  # no fates
UNTRAINED = ("dropped/", "discarded/", "refused/late", "unrecorded")  # tokens that were generated in vain


class PhaseId(NamedTuple):
    """A phase that generates."""

    kind: str
    """`rl`, `sample` or `eval`; `run` for the whole run."""
    iteration: int
    """RLoop iteration, or number of the evaluation."""


@dataclass(frozen=True, slots=True)
class Balance:
    """Where everything went, by account.

    Fates: `trained`, `waiting`, `dropped/<reason>`, `evaluated`, `running`, `free/<reason>`; `dropped/unscored` are
    siblings without a verdict in trained groups, `dropped/undelivered` answers that `dropped/failed` groups never had.
    What else there is:

        issued             groups leased at least once, and their answers
        generated          finished answers on the disk
        known              tokens that came in: with reports, or with the finished answers
        partial/<fate>     tokens of unfinished answers, by the fate of their group
        discarded/<reason> answers that started again, and the tokens they had
        refused/late       tokens of late reports and deliveries that are kept nowhere else
        refused/duplicate  tokens that were delivered twice
        unrecorded         answers on the disk that the log does not know: their delivery was under way
        recycled           finished answers of groups that began with tokens of an earlier lease
    """

    phase: PhaseId
    groups: Counter[str] = field(default_factory=Counter)
    samples: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    leases: Counter[str] = field(default_factory=Counter)
    """`issued`, and how they ended: `finished`, `running`, `expired`, `given_back`, `interrupted`, `worker_lost`,
    `phase_over`, `voided` (a restart knew nothing of them)."""
    refused: Counter[str] = field(default_factory=Counter)
    """`late` and `duplicate` → reports and deliveries."""
    lengths: dict[str, Counter[int]] = field(default_factory=dict)
    """Account → tokens of an answer → answers."""
    ages: Counter[int] = field(default_factory=Counter)
    """Age of a trained token in policy versions → tokens."""
    steps: int = 0
    """Training steps that are recorded."""

    @property
    def fates(self) -> list[str]:
        """The fates that occur, sorted, without the accounts beside them."""
        return sorted(name for name in {*self.groups, *self.samples} if not name.startswith(BESIDE))

    def book(self, account: str, lengths: np.ndarray) -> None:
        """Put answers of these lengths on an account."""
        if len(lengths):
            self.samples[account] += len(lengths)
            self.tokens[account] += int(lengths.sum())
            self.lengths.setdefault(account, Counter()).update(lengths.tolist())

    def gaps(self) -> list[str]:
        """A sentence per sum that does not close."""
        delivered = [fate for fate in self.fates if not fate.startswith(UNDELIVERED)]
        on_disk = [*delivered, "unrecorded"]
        came_in = [*delivered, *self.accounts("partial/", "discarded/")]
        ends = [end for end in self.leases if end != "issued"]
        sums = [
            ("groups issued", self.groups["issued"], _sum(self.groups, self.fates)),
            ("answers issued", self.samples["issued"], _sum(self.samples, self.fates)),
            ("answers generated", self.samples["generated"], _sum(self.samples, on_disk)),
            ("tokens generated", self.tokens["generated"], _sum(self.tokens, on_disk)),
            ("tokens known", self.tokens["known"], _sum(self.tokens, came_in)),
            ("leases", self.leases["issued"], _sum(self.leases, ends)),
        ]
        name = " ".join(map(str, self.phase))
        return [f"{name}: {what} {all_}, accounted for {known}" for what, all_, known in sums if all_ != known]

    @property
    def closes(self) -> bool:
        """True when every sum closes exactly."""
        return not self.gaps()

    def accounts(self, *prefixes: str) -> list[str]:
        """Accounts with answers or tokens whose names begin like this, sorted."""
        return sorted(name for name in {*self.samples, *self.tokens} if name.startswith(prefixes))

    def untrained(self) -> Counter[str]:
        """Tokens that were generated for training and will be in no training step, by reason."""
        return Counter({name: self.tokens[name] for name in self.accounts(*UNTRAINED) if self.tokens[name]})

    def generated_for_training(self) -> int:
        """Tokens that were ever seen of training answers, kept or not."""
        return self.tokens["known"] - self.tokens["evaluated"] + self.tokens["refused/late"] + self.tokens["unrecorded"]

    def quantiles(self, *accounts: str) -> list[int]:
        """Length in tokens of the answers of these accounts: 10, 50 and 90 %, and the longest; empty without any."""
        merged: Counter[int] = Counter()
        for account in accounts:
            merged.update(self.lengths.get(account, {}))
        if not merged:
            return []
        values = np.array(sorted(merged.items()))
        reached = values[:, 1].cumsum()
        return [int(values[np.searchsorted(reached, share * reached[-1]), 0]) for share in (0.1, 0.5, 0.9, 1.0)]


def total(phases: Sequence[Balance]) -> Balance:
    """The balance of the whole run."""
    total = Balance(PhaseId("run", 0), steps=sum(balance.steps for balance in phases))
    for balance in phases:
        for name in ("groups", "samples", "tokens", "leases", "refused", "ages"):
            getattr(total, name).update(getattr(balance, name))
        for account, lengths in balance.lengths.items():
            total.lengths.setdefault(account, Counter()).update(lengths)
    return total


def _sum(counts: Counter[str], accounts: Sequence[str]) -> int:
    return sum(counts[account] for account in accounts)
