"""The accounts of an audit: groups, answers, tokens and leases by fate, and whether their sums close.

Plain counting; where the numbers come from is `rollout.audit`'s business.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

UNDELIVERED = ("running", "free/")  # fates without answers
BESIDE = ("lost_lineage", "unrecorded")  # answers that are no group's fate


class PhaseId(NamedTuple):
    """A phase that generates."""

    kind: str
    """`rl` or `eval`; `run` for the whole run."""
    iteration: int
    """RLoop iteration, or number of the evaluation."""


@dataclass(frozen=True, slots=True)
class Balance:
    """Where everything went, by account.

    Fates: `trained`, `waiting`, `dropped/<reason>`, `evaluated`, `running`, `free/<reason>`. Beside them: `issued`
    (groups leased at least once, and their answers), `generated` (answers on the disk), `lost_lineage` (answers of
    weights that a restart lost) and `unrecorded` (answers on the disk that the log does not know: their delivery was
    under way when the run died, or is now). `dropped/unscored` are siblings without a verdict in trained groups.
    """

    phase: PhaseId
    groups: Counter[str] = field(default_factory=Counter)
    samples: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    leases: Counter[str] = field(default_factory=Counter)
    """`issued`, and how they ended: `finished`, `running`, `expired`, `given_back`, `worker_lost`, `phase_over`,
    `voided` (a restart knew nothing of them)."""
    lengths: dict[str, Counter[int]] = field(default_factory=dict)
    """Fate → tokens of an answer → answers."""
    ages: Counter[int] = field(default_factory=Counter)
    """Age of a trained token in policy versions → tokens."""
    steps: int = 0
    """Training steps of the surviving lineage."""

    @property
    def fates(self) -> list[str]:
        """The fates that occur, sorted, without the accounts beside them."""
        return sorted({*self.groups, *self.samples} - {"issued", "generated", *BESIDE})

    def gaps(self) -> list[str]:
        """A sentence per sum that does not close."""
        delivered = [fate for fate in self.fates if not fate.startswith(UNDELIVERED)] + list(BESIDE)
        ends = [end for end in self.leases if end != "issued"]
        sums = [
            ("groups issued", self.groups["issued"], sum(self.groups[fate] for fate in self.fates)),
            ("answers issued", self.samples["issued"], sum(self.samples[fate] for fate in self.fates)),
            ("answers generated", self.samples["generated"], sum(self.samples[fate] for fate in delivered)),
            ("tokens generated", self.tokens["generated"], sum(self.tokens[fate] for fate in delivered)),
            ("leases", self.leases["issued"], sum(self.leases[end] for end in ends)),
        ]
        name = " ".join(map(str, self.phase))
        return [f"{name}: {what} {all_}, accounted for {known}" for what, all_, known in sums if all_ != known]

    @property
    def closes(self) -> bool:
        """True when every sum closes exactly."""
        return not self.gaps()

    def quantiles(self, fate: str) -> list[int]:
        """Length in tokens of the answers of a fate: 10, 50 and 90 %, and the longest."""
        values = np.array(sorted(self.lengths[fate].items()))
        reached = values[:, 1].cumsum()
        return [int(values[np.searchsorted(reached, share * reached[-1]), 0]) for share in (0.1, 0.5, 0.9, 1.0)]


def total(phases: Sequence[Balance]) -> Balance:
    """The balance of the whole run."""
    total = Balance(PhaseId("run", 0), steps=sum(balance.steps for balance in phases))
    for balance in phases:
        for name in ("groups", "samples", "tokens", "leases", "ages"):
            getattr(total, name).update(getattr(balance, name))
        for fate, lengths in balance.lengths.items():
            total.lengths.setdefault(fate, Counter()).update(lengths)
    return total
