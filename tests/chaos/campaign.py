"""Any number of trials, and one table: `make chaos N=32 SEED=0`.

A trial is one signal to one process at a random moment. Every victim has its turn with SIGKILL and with SIGSTOP; a few
trials share a run, so what is lost in a run stands at each of its victims. The first run is left alone: the lengths of
what the others trained are held against its own.
"""

import argparse
import itertools
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from findings import same_distribution
from rich.console import Console
from rich.table import Table
from siege import Outcome, Shot, besiege
from targets import TARGETS

FALSE_ALARM = 1e-3
PER_RUN = 6
PHASES = ["schedule.iterations=3", "schedule.rl_steps=25"]  # RL, RFT and evaluations, in turn


def drawn(trials: int, seed: int) -> list[Shot]:
    """Every victim with either signal in random order, again and again."""
    draw = random.Random(seed)
    everyone = [Shot(name, kind) for name in TARGETS for kind in (signal.SIGKILL, signal.SIGSTOP)]
    rounds = (draw.sample(everyone, len(everyone)) for _ in itertools.count())
    return list(itertools.islice(itertools.chain.from_iterable(rounds), trials))


def survivors(outcomes: Sequence[Outcome]) -> Table:
    """One line per victim and signal."""
    table = Table(title="What died or hung, and what became of the run")
    for column in ("victim", "signal"):
        table.add_column(column, no_wrap=True)
    for column in ("trials", "survived", "lost", "doubled", "median recovery"):
        table.add_column(column, justify="right")
    for name, kind in itertools.product(TARGETS, (signal.SIGKILL, signal.SIGSTOP)):
        hits = [(hit, one) for one in outcomes for hit in one.hits if hit.shot == Shot(name, kind)]
        if not hits:
            continue
        seconds = [hit.recovered_s for hit, _ in hits if hit.recovered_s is not None]
        table.add_row(
            name,
            kind.name,
            str(len(hits)),
            str(sum(hit.survived for hit, _ in hits)),
            str(sum(one.finding.lost for _, one in hits)),
            str(sum(one.finding.doubled for _, one in hits)),
            f"{statistics.median(seconds):.1f} s" if seconds else "-",
        )
    return table


def verdict(untouched: Outcome, outcomes: Sequence[Outcome]) -> list[str]:
    """A sentence per thing that must not be."""
    faults = [
        f"{one.run_dir.name}: {trouble}"
        for one in (untouched, *outcomes)
        for trouble in (one.trouble, one.finding.verdict)
        if trouble
    ]
    faults += [
        f"{one.run_dir.name}: {one.finding.lost} lost, {one.finding.doubled} trained twice"
        for one in (untouched, *outcomes)
        if one.finding.lost or one.finding.doubled
    ]
    trained = sum((one.finding.trained for one in outcomes), Counter[int]())
    if trained and (p := same_distribution(trained, untouched.finding.trained)) < FALSE_ALARM:
        faults.append(f"lengths of trained answers differ from the run without faults (p = {p:.1g})")
    return faults


def main() -> int:
    """Returns 0 when every run survived with nothing lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", type=int)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of moments, hangs and order; printed")
    arguments, console = parser.parse_args(), Console()
    shots = drawn(arguments.trials, arguments.seed)
    scratch = Path(tempfile.mkdtemp(prefix="rloop-chaos-"))
    console.print(f"{len(shots)} trials, seed {arguments.seed}, runs in {scratch}")
    tell = lambda line: console.print(f"  {time.strftime('%H:%M:%S')} {line}", highlight=False, soft_wrap=True)  # noqa: E731
    untouched = besiege(scratch / "untouched", 0, [], PHASES)
    outcomes = []
    while shots:
        number = len(outcomes)
        outcome = besiege(scratch / f"run-{number}", arguments.seed + number, shots[:PER_RUN], PHASES, tell)
        outcomes.append(outcome)
        late, trouble = outcome.finding.late, outcome.trouble or outcome.finding.verdict or "it ended well"
        console.print(f"run {number}, {outcome.seconds:.0f} s, {late} late deliveries refused: {trouble}")
        shots = shots[max(len(outcome.hits), 1) :]  # those it ended before wait for the next run
    console.print(survivors(outcomes))
    faults = verdict(untouched, outcomes)
    for fault in faults:
        console.print(fault, highlight=False, markup=False)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
