"""A run that repeats bit for bit, killed as a whole and resumed, ends with the weights of one that was not."""

import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from whole_run import ROOT, FinishedRun, command, rloop

EXACT = [
    "recipes/smoke.yaml",
    "rollout.deterministic=true",
    "rollout.max_staleness=0",
    "trainer.ranks=1",
    "schedule.rl_steps=6",
]


@pytest.fixture(scope="module")
def uninterrupted(runs: Path) -> FinishedRun:
    rloop("train", *EXACT, f"cluster.runs_dir={runs}", "--name", "uninterrupted")
    return FinishedRun(runs / "uninterrupted")


def kill_everything(process: subprocess.Popen) -> None:
    """SIGKILL the driver and all that it started, Ray's own processes too, in one go."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for act in (psutil.Process.suspend, psutil.Process.kill):  # all are stopped first: nobody sees another die
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile
                act(member)
    process.wait(20)
    psutil.wait_procs(family, timeout=20)


def killed_when(run: FinishedRun, happens: Callable[[], bool], arguments: list[str]) -> None:
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 250
    while not (run.root / "metrics.jsonl").exists() or not happens():
        assert process.poll() is None
        assert time.monotonic() < deadline, "the moment to kill it did not come within 250 s"
        time.sleep(0.02)
    kill_everything(process)


def assert_same_end(run: FinishedRun, other: FinishedRun) -> None:
    assert run.manifest["weights"] == other.manifest["weights"]  # hashes of every tensor of every policy
    assert run.manifest["version"] == other.manifest["version"]
    for row, same in zip(run.manifest["evals"], other.manifest["evals"], strict=True):
        assert row["metrics"] == same["metrics"]
    assert "The balance closes" in rloop("audit", str(run.root))


class Killings:
    """A run that is killed again and again; it begins without checkpoints, and has them after its first life."""

    def __init__(self, runs: Path, name: str) -> None:
        self.run = FinishedRun(runs / name)
        where = [f"cluster.runs_dir={runs}", "--name", name]
        self._next = command("train", *EXACT, "actors.checkpoint_every_s=1e6", *where)

    def after_step(self, step: int) -> None:
        self._when(lambda: any(row["step"] >= step for row in self.run.steps("rl")))

    def after_evaluation(self, weights: str) -> None:
        self._when(lambda: any(row["weights"] == weights for row in self.run.steps("eval")))

    def in_fine_tuning(self) -> None:
        self._when(lambda: bool(self.run.steps("rft")))

    def _when(self, happens: Callable[[], bool]) -> None:
        killed_when(self.run, happens, self._next)
        self._next = command("resume", str(self.run.root), "actors.checkpoint_every_s=0.1")


@pytest.mark.timeout(900)  # six starts of everything
def test_a_run_that_is_killed_in_and_between_its_phases_ends_with_the_very_same_weights(
    uninterrupted: FinishedRun, runs: Path
):
    killings = Killings(runs, "killed")
    killings.after_step(3)
    assert killings.run.manifest["phase"] is None  # nothing was committed since the phase began
    killings.after_step(5)
    again = [row["step"] for row in killings.run.steps("rl") if row["again"]]
    assert {1, 2, 3} <= set(again)  # every recorded step was trained again
    killings.after_evaluation("rl-0")  # done, and perhaps not committed
    killings.in_fine_tuning()
    rloop("resume", str(killings.run.root))
    assert_same_end(killings.run, uninterrupted)
