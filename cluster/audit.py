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
from rollout.balance import Balance
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
    group_size = config.rollout.group_size
    found = audit(journal, {"rl": group_size, "sample": group_size, "eval": config.eval.samples}, bound)
    faults = [*found.faults, *_uncommitted(manifest, found.lineage)]
    if json_file:
        json_file.write_text(json.dumps(_numbers(found, faults, bound), indent=1) + "\n", encoding="utf-8")
    console.print(_phases(found))
    console.print(_fates(found.run))
    console.print(_lengths(found.run))
    for line in [*_facts(found, bound), *_verdict(faults)]:
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
    """What the run has committed; an empty manifest before the first commit.

    Raises:
        Refused: When another RLoop wrote it.
    """
    try:
        return Manifest.load(LocalDisk(run_dir)) or Manifest("")
    except ValueError as error:
        raise Refused([str(error)]) from None


def _uncommitted(manifest: Manifest, lineage: Lineage) -> list[str]:
    """A sentence per RL phase whose committed steps have no *trained* record."""
    committed = {phase.iteration: phase.steps for phase in manifest.done if phase.kind == "rl"}
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
    """Groups, answers and tokens by fate; what started again; and what is beside the balance."""
    drawn = _table("Answers of the whole run", "fate", "groups", "answers", "tokens", "share")
    known = run.tokens["known"] or 1
    for fate in [*run.fates, *run.accounts("discarded/")]:
        tokens = run.tokens[fate] + run.tokens[f"partial/{fate}"]
        drawn.add_row(
            _words(fate), _cell(run.groups[fate]), _cell(run.samples[fate]), _cell(tokens), f"{tokens / known:.1%}"
        )
    drawn.add_section()
    drawn.add_row("issued", *map(_cell, (run.groups["issued"], run.samples["issued"], run.tokens["known"])), "")
    for name in run.accounts("refused/", "unrecorded"):
        count = run.samples[name] or run.refused[name.removeprefix("refused/")]
        drawn.add_row(_words(name), "", _cell(count), _cell(run.tokens[name]), "")
    return drawn


def _lengths(run: Balance) -> Table:
    """How long the answers are, side by side: long ones are interrupted, become stale and are dropped more often."""
    drawn = _table("Their lengths in tokens", "answers", "number", "p10", "p50", "p90", "max")
    finished = [fate for fate in run.fates if fate in run.lengths and fate != "evaluated"]
    rows = {
        "finished, for training": finished,
        "  trained": ["trained"],
        "  dropped": [fate for fate in finished if fate.startswith("dropped/")],
        "  dropped: stale": ["dropped/stale"],
        "recycled: finished under a later lease": ["recycled"],
        "discarded: started again": run.accounts("discarded/"),
    }
    for name, accounts in rows.items():
        if lengths := run.quantiles(*accounts):
            drawn.add_row(name, _cell(sum(run.samples[account] for account in accounts)), *map(str, lengths))
    return drawn


def _words(account: str) -> str:
    return account.replace("/", ": ").replace("_", " ")


def _table(title: str, label: str, *numbers: str) -> Table:
    drawn = Table(title=title, title_justify="left", title_style="dim", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.add_column(label, no_wrap=True)
    for name in numbers:
        drawn.add_column(name, justify="right", no_wrap=True)
    return drawn


def _cell(number: int) -> str:
    return f"{number:,}" if number else "-"


def _facts(found: Audit, bound: float) -> list[str]:
    run = found.run
    leases = ", ".join(f"{run.leases[name]} {name.replace('_', ' ')}" for name in run.leases if name != "issued")
    tokens = run.ages.total()
    ages = ", ".join(f"{age}: {run.ages[age] / tokens:.1%}" for age in sorted(run.ages))
    ignored = f"; {found.ignored} records of writers that had lost the journal were ignored" if found.ignored else ""
    return [
        f"Leases: {run.leases['issued']}" + (f" ({leases})" if leases else ""),
        _untrained(run),
        f"Age of trained tokens in versions: {ages or 'nothing was trained'}; the bound is {bound:g}",
        f"The journal was opened {found.starts} time{'s' * (found.starts != 1)}{ignored}.",
    ]


def _untrained(run: Balance) -> str:
    lost, generated = run.untrained(), run.generated_for_training()
    reasons = ", ".join(f"{tokens:,} {_words(name)}" for name, tokens in lost.most_common())
    share = f" ({lost.total() / generated:.1%}): {reasons}" if lost else ""
    return f"Tokens generated but never trained: {lost.total():,} of {generated:,}{share}"


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
        "starts": found.starts,
        "ignored_records": found.ignored,
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
        "refused": balance.refused,
        "tokens_never_trained": balance.untrained(),
        "ages": {str(age): balance.ages[age] for age in sorted(balance.ages)},
        "length_quantiles": {account: balance.quantiles(account) for account in balance.lengths},
    }
