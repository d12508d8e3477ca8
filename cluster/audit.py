"""`rloop audit RUN`: where every answer of a run went, on one screen.

Reads the run directory and draws; takes no lock and changes nothing, so a run under way or killed can be audited.
What is counted, and how, is in `rollout.audit`.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from actors.manifest import Manifest
from cluster.config import RunConfig
from cluster.exits import Exit
from cluster.rundir import saved_config
from cluster.settings import Refused
from rollout.audit import Audit, audit
from rollout.balance import BESIDE, Balance
from rollout.events import LOG_NAME
from rollout.provenance import Lineage
from rollout.storage import LocalDisk

_SHOWN = 8  # phases and faults on the screen; --json has all
_COLUMNS = ("issued", "trained", "waiting", "dropped", "evaluated", "running", "free")


def show_balance(run_dir: Path, console: Console, json_file: Path | None) -> Exit:
    """Print the balance of a run. `Exit.FAILED` when it does not close, or when something in it cannot be.

    Raises:
        Refused: When this is no run directory, or it has no journal.
    """
    config, journal = opened(run_dir)
    manifest = manifest_of(run_dir)  # before the log: what it names is then in there
    bound = config.rollout.max_staleness
    found = audit(journal, {"rl": config.rollout.group_size, "eval": config.eval.samples}, bound)
    faults = [*found.faults, *_uncommitted(manifest, found.lineage, config.schedule.rl_steps)]
    if json_file:
        json_file.write_text(json.dumps(_numbers(found, faults, bound), indent=1) + "\n", encoding="utf-8")
    console.print(_phases(found))
    console.print(_fates(found.run))
    for line in [*_facts(found.run, bound), *_verdict(faults)]:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return Exit.FAILED if faults else Exit.DONE


def opened(run_dir: Path) -> tuple[RunConfig, LocalDisk]:
    """The configuration and the journal of a run.

    Raises:
        Refused: When this is no run directory, or it has no journal.
    """
    config, journal = saved_config(run_dir, []), LocalDisk(run_dir / "journal")
    if LOG_NAME not in journal.names():
        raise Refused([f"{run_dir} has no journal yet: nothing was generated; audit it once the run is under way"])
    return config, journal


def manifest_of(run_dir: Path) -> Manifest:
    """What the run has committed; an empty manifest before the first commit."""
    return Manifest.load(LocalDisk(run_dir)) or Manifest("")


def _uncommitted(manifest: Manifest, lineage: Lineage, rl_steps: int) -> list[str]:
    """A sentence per RL phase whose committed steps have no *trained* record."""
    committed = {phase.iteration: rl_steps for phase in manifest.done if phase.kind == "rl"}
    if manifest.phase and manifest.phase.kind == "rl":
        committed[manifest.phase.iteration] = manifest.step
    recorded = {iteration: len(lineage.steps.get(iteration, ())) for iteration in committed}
    return [
        f"manifest.json has {steps} steps of rl {iteration}, the journal {recorded[iteration]}"
        for iteration, steps in committed.items()
        if recorded[iteration] < steps
    ]


def _phases(found: Audit) -> Table:
    """Groups by phase."""
    hidden = len(found.phases) - _SHOWN
    title = "Groups" + (f" (the last {_SHOWN} phases; {hidden} more in --json FILE)" if hidden > 0 else "")
    drawn = _table(title, "phase", "steps", *_COLUMNS)
    for balance in found.phases[-_SHOWN:]:
        drawn.add_row(" ".join(map(str, balance.phase)), *_groups(balance))
    drawn.add_section()
    drawn.add_row("whole run", *_groups(found.run))
    return drawn


def _groups(balance: Balance) -> list[str]:
    sums: Counter[str] = Counter()
    for account, count in balance.groups.items():
        sums[account.partition("/")[0]] += count
    return [str(balance.steps or "-"), *(str(sums[name] or "-") for name in _COLUMNS)]


def _fates(run: Balance) -> Table:
    """Groups, answers, tokens and lengths by fate."""
    drawn = _table(
        "Answers of the whole run, lengths in tokens",
        "fate",
        "groups",
        "answers",
        "tokens",
        "share",
        "p10",
        "p50",
        "p90",
        "max",
    )
    everything = run.tokens["generated"] or 1
    for fate in [*run.fates, *(name for name in BESIDE if run.samples[name])]:
        lengths = map(str, run.quantiles(fate)) if fate in run.lengths else "----"
        share = f"{run.tokens[fate] / everything:.1%}"
        name = fate.replace("/", ": ").replace("_", " ")
        drawn.add_row(name, _cell(run.groups[fate]), _cell(run.samples[fate]), _cell(run.tokens[fate]), share, *lengths)
    drawn.add_section()
    totals = (run.groups["issued"], run.samples["issued"], run.tokens["generated"])
    drawn.add_row("issued", *map(_cell, totals), "", "", "", "", "")
    return drawn


def _table(title: str, label: str, *numbers: str) -> Table:
    drawn = Table(title=title, title_justify="left", title_style="dim", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.add_column(label, no_wrap=True)
    for name in numbers:
        drawn.add_column(name, justify="right", no_wrap=True)
    return drawn


def _cell(number: int) -> str:
    return f"{number:,}" if number else "-"


def _facts(run: Balance, bound: float) -> list[str]:
    leases = ", ".join(f"{run.leases[name]} {name.replace('_', ' ')}" for name in run.leases if name != "issued")
    tokens = run.ages.total()
    ages = ", ".join(f"{age}: {run.ages[age] / tokens:.1%}" for age in sorted(run.ages))
    return [
        f"Leases: {run.leases['issued']}" + (f" ({leases})" if leases else ""),
        f"Age of trained tokens in versions: {ages or 'nothing was trained'}; the bound is {bound:g}",
    ]


def _verdict(faults: list[str]) -> list[str]:
    if not faults:
        return ["The balance closes: every answer has its fate, nothing was trained twice, the bound held."]
    more = [f"  * and {len(faults) - _SHOWN} more in --json FILE"] if len(faults) > _SHOWN else []
    return [
        f"The audit found {len(faults)} fault{'s' * (len(faults) > 1)}; what these weights learned from is in doubt:",
        *(f"  * {fault}" for fault in faults[:_SHOWN]),
        *more,
    ]


def _numbers(found: Audit, faults: list[str], bound: float) -> dict[str, Any]:
    return {
        "closes": found.run.closes and all(balance.closes for balance in found.phases),
        "faults": faults,
        "max_staleness": bound,
        "events": found.events,
        "run": _record(found.run),
        "phases": [_record(balance) for balance in found.phases],
    }


def _record(balance: Balance) -> dict[str, Any]:
    return {
        "kind": balance.phase.kind,
        "iteration": balance.phase.iteration,
        "steps": balance.steps,
        "groups": balance.groups,
        "samples": balance.samples,
        "tokens": balance.tokens,
        "leases": balance.leases,
        "ages": {str(age): balance.ages[age] for age in sorted(balance.ages)},
        "length_quantiles": {fate: balance.quantiles(fate) for fate in balance.lengths},
    }
