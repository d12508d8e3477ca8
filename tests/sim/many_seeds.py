"""Run many seeds, or show one: `make sim N=5000`, `make sim SEED=123`.

A seed is everything: the same seed is the same schedule in any process, which its digest shows.
"""

import argparse
import gc
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import bugs
import pyarrow as pa
from trial import Outcome, run_seed

T = TypeVar("T")
A = TypeVar("A")

_CHUNK = 25  # seeds that a process takes at a time


@dataclass(slots=True)
class Tally:
    """What came of many seeds."""

    seeds: int = 0
    lives: int = 0
    lasted: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """One more seed."""
        self.seeds += 1
        self.lives += outcome.lives
        self.lasted += outcome.lasted
        self.virtual_s += outcome.seconds
        self.cpu_s += outcome.cpu_s
        self.faults += outcome.faults
        if outcome.violation:
            self.violations.append(outcome)

    def __str__(self) -> str:
        cost_s = self.cpu_s / max(1, self.seeds)
        lines = [
            f"{self.seeds} seeds, {self.lives} lives of the core, {self.virtual_s / 3600:.1f} hours of virtual time",
            f"{self.lasted:8} × the buffer went on into the next life of the core",
            f"{1000 * cost_s:.0f} ms of CPU per seed: {240 / max(cost_s, 1e-3):.0f} in two minutes of two idle cores",
            *(f"{count:8} × {kind}" for kind, count in sorted(self.faults.items())),
            f"{len(self.violations)} violations in {self.seeds} seeds",
        ]
        if not self.violations:
            lines.append(
                f"so with 95 % confidence less than {3 / max(1, self.seeds):.1e} per seed (rule of three: 3/n)"
            )
        return "\n".join(lines)


def run_chunk(first: int, scratch: Path) -> list[Outcome]:
    """The seeds of one chunk."""
    return [run_seed(seed, scratch / str(seed)) for seed in range(first, first + _CHUNK)]


def seeds_to_find(name: str, limit: int, scratch: Path) -> tuple[str, int | None, str]:
    """(bug, how many seeds it took to find it, what was found); None seeds when none of `limit` did.

    A seed finds a bug when it fails with it, and not without it.
    """
    for seed in range(limit):
        folder = scratch / name / str(seed)
        with bugs.planted(name):
            violation = run_seed(seed, folder).violation
        if violation and not run_seed(seed, folder).violation:
            return name, seed + 1, violation
    return name, None, ""


def run_many(count: int, first: int, processes: int, tell: Callable[[Tally], None]) -> Tally:
    """Run `count` seeds (rounded up to whole chunks); `tell` hears how it goes."""
    tally = Tally()
    with _scratch() as scratch:
        for outcomes in spread(partial(run_chunk, scratch=scratch), range(first, first + count, _CHUNK), processes):
            for outcome in outcomes:
                tally.add(outcome)
            tell(tally)
    return tally


def find_bugs(limit: int, processes: int) -> Iterator[tuple[str, int | None, str]]:
    """`seeds_to_find` of every planted bug."""
    with _scratch() as scratch:
        yield from spread(partial(seeds_to_find, limit=limit, scratch=scratch), bugs.BUGS, processes)


def spread(work: Callable[[A], T], jobs: Iterable[A], processes: int) -> Iterator[T]:
    """The results of jobs that several processes do, in the order in which they are done.

    When a process dies (pyarrow has crashed one in millions of files), what was not done is done once more.

    Raises:
        BrokenProcessPool: When one dies again.
    """
    left = list(jobs)
    for last in (False, True):
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _be_quiet) as pool:
            under_way = {pool.submit(work, job): job for job in left}
            try:
                for done in as_completed(under_way):
                    result = done.result()
                    left.remove(under_way[done])
                    yield result
                return
            except BrokenProcessPool:
                if last:
                    raise
                print(f"a process died: {len(left)} jobs that were not done are done again", file=sys.stderr)


def _be_quiet() -> None:
    """Nothing is logged, threads stay out of the way, and garbage is looked for less often: a run is short."""
    logging.disable(logging.CRITICAL)
    pa.set_cpu_count(1)
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@contextmanager
def _scratch() -> Iterator[Path]:
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="rloop-sim-", dir=memory if memory.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Any = None) -> int:
    """Returns the number of violations, at most 100."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=1000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--bugs", type=int, default=2000, help="seeds at most per planted bug; 0: none is planted")
    parser.add_argument("--seed", type=int, help="show this seed's schedule instead")
    parser.add_argument("--bug", choices=sorted(bugs.BUGS), help="with this bug planted (and --seed)")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _show(options.seed, options.bug)
    began = time.monotonic()

    def progress(tally: Tally) -> None:
        seconds = time.monotonic() - began
        line = (
            f"\r{tally.seeds}/{options.count} seeds, {tally.seeds / seconds:.0f}/s, {len(tally.violations)} violations"
        )
        print(line, end="", file=sys.stderr, flush=True)

    tally = run_many(options.count, options.first, options.processes, progress)
    print(f"\n{tally}\n{time.monotonic() - began:.0f} seconds on {options.processes} processes")
    for outcome in tally.violations:
        print(f"seed {outcome.seed} (make sim SEED={outcome.seed}): {outcome.violation}")
    missed = _hunt(options.bugs, options.processes) if options.bugs else 0
    return min(100, len(tally.violations) + missed)


def _show(seed: int, bug: str | None) -> int:
    _be_quiet()
    with _scratch() as scratch:
        if bug:
            with bugs.planted(bug):
                outcome = run_seed(seed, scratch, print)
        else:
            outcome = run_seed(seed, scratch, print)
    print(f"digest {outcome.digest:08x}: {outcome.violation or 'everything is as it must be'}")
    return int(bool(outcome.violation))


def _hunt(limit: int, processes: int) -> int:
    """Print how soon each planted bug is found; returns how many are not."""
    missed = 0
    print(f"{'planted bug':20} {'seeds to find':>13}  what is broken → what was found first")
    for name, seeds, violation in find_bugs(limit, processes):
        missed += seeds is None
        found = violation.split("\n")[0][:120]
        print(f"{name:20} {seeds or f'> {limit}':>13}  {bugs.BUGS[name].sentence} → {found}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
