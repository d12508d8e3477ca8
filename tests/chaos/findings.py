"""What a run leaves, examined: is anything lost, was anything trained twice, are the lengths as they should be."""

import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cluster.rundir import saved_config
from rollout.audit import audit
from rollout.events import TakenUp, replay
from rollout.ledger import Ledger
from rollout.storage import LocalDisk

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of the groups and answers of a run."""

    verdict: str = ""
    """What `rloop audit` has to say against it; empty when its balance closes."""
    lost: int = 0
    """Groups and answers that are in no account, and prompts that an epoch left out."""
    doubled: int = 0
    """Groups that more than one step trained."""
    late: int = 0
    """Deliveries and reports that were refused because their lease had ended."""
    went_on: int = 0
    """How often only the learning side was lost, and its phase went on meanwhile."""
    trained: Counter[int] = field(default_factory=Counter)
    """Tokens of an answer → trained answers."""


def examine(run_dir: Path) -> Finding:
    """Examine a run that has ended."""
    journal, config = LocalDisk(run_dir / "journal"), saved_config(run_dir, [])
    if not journal.names():
        return Finding("the run has no journal")
    found = audit(journal, {"rl": config.rollout.group_size, "eval": config.eval.samples}, config.rollout.max_staleness)
    astray = sum(
        abs(counts["issued"] - sum(counts[fate] for fate in balance.fates))
        for balance in found.phases
        for counts in (balance.groups, balance.samples)
    )
    asked = subprocess.run(
        [sys.executable, "-m", "cluster", "audit", str(run_dir)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    return Finding(
        verdict=asked.stdout[-1500:] + asked.stderr[-1500:] if asked.returncode else "",
        lost=astray + _left_out(journal, config.data.countdown.train_problems),
        doubled=sum(len(versions) > 1 for versions in found.lineage.trained().values()),
        late=found.run.refused["late"],
        went_on=sum(isinstance(event, TakenUp) for event in replay(journal)),
        trained=found.run.lengths.get("trained", Counter()),
    )


def _left_out(journal: LocalDisk, prompts: int) -> int:
    """Prompts that were never given out in an epoch, although a later epoch has begun."""
    epochs = Counter(key.epoch for key in Ledger(replay(journal)).entries if key.purpose == "train")
    return sum(prompts - epochs[epoch] for epoch in range(max(epochs, default=0)))


def same_distribution(some: Mapping[int, int], others: Mapping[int, int]) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test, given how often each value occurs.

    For values that are ties the true probability of a false alarm is smaller than this.
    """
    values = sorted({*some, *others})
    one, other = (np.array([counts.get(value, 0) for value in values], float) for counts in (some, others))
    distance = float(np.abs(one.cumsum() / one.sum() - other.cumsum() / other.sum()).max())
    scaled = distance * np.sqrt(one.sum() * other.sum() / (one.sum() + other.sum()))
    if scaled < 0.2:  # there the series needs many terms, and is 1 to seven digits
        return 1.0
    k = np.arange(1, 101)
    return float(np.clip(2 * np.sum((-1.0) ** (k - 1) * np.exp(-2 * (k * scaled) ** 2)), 0, 1))
