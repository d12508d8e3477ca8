"""A whole run whose processes are hit one after the other, and what came of it."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from findings import Finding, examine
from targets import TARGETS, ended, title

from rollout import shared_memory

ROOT = Path(__file__).parents[2]

SUSPECT_S, SILENT_S = 4.0, 10.0
RECIPE = [
    "recipes/smoke.yaml",
    # The policy hardly moves, so that two runs draw from the same distribution whatever order their groups come in.
    "trainer.rl.optim.lr=1e-5",
    "trainer.rft.optim.lr=1e-5",
    "actors.restarts=1000",
    "actors.checkpoint_every_s=2",
    f"actors.suspect_s={SUSPECT_S:g}",
    f"actors.silent_s={SILENT_S:g}",
    "actors.stall_s=60",
    "actors.call_timeout_s=30",
    "actors.lease_timeout_s=60",
]
_RECOVERY_S = 420.0  # on a busy machine an engine takes a minute to come up, and a failed recovery is tried again
_START_S = 400.0
_END_S = 900.0
_LOOK_S = 0.2


class Fell(AssertionError):
    """The run ended, or stood still, because of what was done to it."""


@dataclass(frozen=True, slots=True)
class Shot:
    """What is to be done to a run."""

    victim: str
    signal: signal.Signals


@dataclass(slots=True)
class Hit:
    """What was done to a run, and how it took it."""

    shot: Shot
    where: str = ""
    """Phase and step."""
    hang_s: float = 0.0
    """After this a stopped process was woken, unless it had been killed."""
    woken: bool = False
    survived: bool = False
    recovered_s: float | None = None
    """From the signal until the run progressed again; None when it had ended by then."""

    def __str__(self) -> str:
        how = f"SIGSTOP for {self.hang_s:.1f} s" if self.shot.signal == signal.SIGSTOP else self.shot.signal.name
        woken = ", woken" if self.woken else ""
        took = "the run was over" if self.recovered_s is None else f"the run went on after {self.recovered_s:.1f} s"
        return f"{how} of {self.shot.victim} at {self.where}{woken}: {took if self.survived else 'the run fell'}"


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    run_dir: Path
    hits: list[Hit] = field(default_factory=list)
    trouble: str = ""
    """Empty: it ended well, and left no process behind."""
    seconds: float = 0.0
    finding: Finding = field(default_factory=Finding)


@dataclass(frozen=True, slots=True)
class _Marks:
    """How far the files of a run have got."""

    rows: int
    """Of metrics: steps, transfers, evaluations."""
    failures: int
    """Noticed."""
    mended: int
    """After which it progressed again."""


class Siege:
    """One run, from its start to its end; use as a context, which leaves no process of it behind.

    Args:
        run_dir: Where it is to be.
        seed: Of moments, of who is hit among many, and of how long somebody hangs.
        overrides: Settings beyond `RECIPE`.
        tell: Takes a line about each hit.
    """

    def __init__(
        self, run_dir: Path, seed: int, overrides: Sequence[str], tell: Callable[[str], None] = lambda line: None
    ) -> None:
        self.run_dir = run_dir
        self._draw = random.Random(seed)
        self._overrides = overrides
        self._tell = tell
        self.hits: list[Hit] = []
        self._seen: set[psutil.Process] = set()
        self._named_before = set(os.listdir("/dev/shm"))

    def __enter__(self) -> "Siege":
        where = [f"cluster.runs_dir={self.run_dir.parent}", "--name", self.run_dir.name]
        arguments = [sys.executable, "-m", "cluster", "train", *RECIPE, *self._overrides, *where]
        self.run_dir.parent.mkdir(parents=True, exist_ok=True)
        with (self.run_dir.parent / f"{self.run_dir.name}.out").open("w") as out:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self._driver = subprocess.Popen(arguments, cwd=ROOT, stdout=out, stderr=out, env=environment)
        return self

    def __exit__(self, *_: object) -> None:
        self.family()
        for process in [self._driver, *self._seen]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        self._driver.wait(30)

    def family(self) -> list[psutil.Process]:
        """Every process below the driver now; all that were ever seen are remembered."""
        try:
            family = psutil.Process(self._driver.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        self._seen.update(family)
        return family

    def fire(self, shot: Shot) -> bool:
        """Hit somebody at some moment after the run has progressed, and wait until it goes on; False if it was over.

        Raises:
            Fell: When it does not go on.
        """
        before = self._marks()
        if not self._until(lambda: self._marks().rows >= before.rows + 3, _START_S, "progress before the next hit"):
            return False
        if not self._pause(self._draw.uniform(0.0, 4.0)):
            return False
        found: list[psutil.Process] = []

        def there() -> bool:
            found[:] = TARGETS[shot.victim].find(self.family())
            return bool(found)

        if not self._until(there, _START_S, f"a {shot.victim} to hit"):
            return False
        self.hits.append(Hit(shot, where=self._where()))
        self._hit(self.hits[-1], self._draw.choice(found))
        return True

    def _hit(self, hit: Hit, victim: psutil.Process) -> None:
        before, began = self._marks(), time.monotonic()
        victim.send_signal(hit.shot.signal)
        must_be_noticed = TARGETS[hit.shot.victim].supervised
        if hit.shot.signal == signal.SIGSTOP:
            hit.hang_s = self._draw.uniform(1.0, 2.0 * SILENT_S)
            self._until(lambda: ended(victim), hit.hang_s, "")
            must_be_noticed &= ended(victim)
            hit.woken = not ended(victim)
            if hit.woken:
                victim.send_signal(signal.SIGCONT)
        woken = self._marks()

        def goes_on() -> bool:
            now = self._marks()
            noticed = max(now.failures - before.failures, int(must_be_noticed))
            return now.mended - before.mended >= min(noticed, 1) and now.rows > woken.rows

        try:
            alive = self._until(goes_on, _RECOVERY_S, f"the end of {hit.shot.signal.name} of {hit.shot.victim}")
            hit.survived = alive or self._driver.returncode == 0
            hit.recovered_s = time.monotonic() - began if alive else None
        finally:
            self._tell(str(hit))

    def end(self) -> str:
        """Wait for the end of the run; returns what was wrong with it, or nothing."""
        self._until(lambda: False, _END_S, "")
        if self._driver.poll() is None:
            return f"the run had not ended {_END_S:g} s after the last hit"
        _, alive = psutil.wait_procs(self._seen, timeout=30)
        if left := [title(process)[:100] for process in alive if not ended(process)]:
            return f"processes of the run are left: {left}"
        if names := self._semaphores_left():
            return f"semaphores of the run are left in /dev/shm: {names}"
        if self._driver.returncode:
            return f"the run ended with exit code {self._driver.returncode}: {self._last_words()}"
        return ""

    def _semaphores_left(self) -> set[str]:
        """Those made since the start that no living process uses."""
        new = {name for name in os.listdir("/dev/shm") if name.startswith("sem.mp-")} - self._named_before
        for pid in psutil.pids():
            with contextlib.suppress(OSError):
                new -= shared_memory.names_mapped_by(pid)
        return new

    def _until(self, happens: Callable[[], bool], seconds: float, what: str) -> bool:
        """Whether it happens while the run lasts; with a `what`, not within `seconds` is a fall."""
        deadline = time.monotonic() + seconds
        while self._driver.poll() is None:
            self.family()
            if happens():
                return True
            if time.monotonic() > deadline:
                if what:
                    raise Fell(f"{what}: not within {seconds:g} s; {self._where()}; {self._last_words()}")
                return False
            time.sleep(_LOOK_S)
        if self._driver.returncode and what:
            raise Fell(f"{what}: the run ended with exit code {self._driver.returncode}: {self._last_words()}")
        return False

    def _pause(self, seconds: float) -> bool:
        self._until(lambda: False, seconds, "")
        return self._driver.poll() is None

    # -- its files --------------------------------------------------------------------------------------------

    def _marks(self) -> _Marks:
        return _Marks(
            len(_lines(self.run_dir / "metrics.jsonl")),
            sum("(failure " in line for line in _lines(self.run_dir / "logs" / "driver.log")),
            sum(json.loads(row)["recovered_s"] is not None for row in _lines(self.run_dir / "incidents.jsonl")),
        )

    def _where(self) -> str:
        status = self.run_dir / "status.json"
        if not status.exists():
            return "start-up"
        seen = json.loads(status.read_text())
        return f"{seen.get('phase') or 'no phase'} {seen.get('iteration')}, step {seen.get('step')}"

    def _last_words(self) -> str:
        return " / ".join(_lines(self.run_dir.parent / f"{self.run_dir.name}.out")[-12:])


def besiege(
    run_dir: Path,
    seed: int,
    shots: Sequence[Shot],
    overrides: Sequence[str],
    tell: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run a run, hit it with each shot in turn, and examine what it leaves."""
    began = time.monotonic()
    with Siege(run_dir, seed, overrides, tell) as siege:
        outcome = Outcome(run_dir, siege.hits)
        try:
            for shot in shots:
                if not siege.fire(shot):
                    break
            outcome.trouble = siege.end()
        except Fell as fell:
            outcome.trouble = str(fell)
    outcome.seconds = time.monotonic() - began
    outcome.finding = examine(run_dir)
    return outcome


def _lines(file: Path) -> list[str]:
    return file.read_text(errors="replace").splitlines() if file.exists() else []
