"""A run that repeats bit for bit, killed as a whole and resumed, ends with the weights of one that was not."""

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
    for member in family:
        member.suspend()  # nobody sees another die
    for member in family:
        member.kill()
    process.wait(20)
    psutil.wait_procs(family, timeout=20)


def killed_when(run: FinishedRun, happens: Callable[[], bool], arguments: list[str]) -> None:
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 250
    while not (run.root / "metrics.jsonl").exists() or not happens():
        assert process.poll() is None
        assert time.monotonic() < deadline, "nothing to kill it for within 250 s"
        time.sleep(0.02)
    kill_everything(process)


def assert_same_end(run: FinishedRun, other: FinishedRun) -> None:
    assert run.manifest["weights"] == other.manifest["weights"]  # hashes of every tensor of every policy
    assert run.manifest["version"] == other.manifest["version"]
    for row, same in zip(run.manifest["evals"], other.manifest["evals"], strict=True):
        assert row["metrics"] == same["metrics"]
    assert "The balance closes" in rloop("audit", str(run.root))


@pytest.mark.parametrize("checkpoint_every_s", [1e6, 1.0])
def test_a_run_that_is_killed_in_its_steps_ends_with_the_very_same_weights(
    uninterrupted: FinishedRun, runs: Path, checkpoint_every_s: float
):
    run = FinishedRun(runs / f"killed-{checkpoint_every_s:.0f}")
    settings = [*EXACT, f"actors.checkpoint_every_s={checkpoint_every_s}", f"cluster.runs_dir={runs}"]

    def trained(step: int) -> bool:
        return any(row["step"] >= step for row in run.steps("rl"))

    killed_when(run, lambda: trained(3), command("train", *settings, "--name", run.root.name))
    killed_when(run, lambda: trained(5), command("resume", str(run.root)))
    rloop("resume", str(run.root))
    assert_same_end(run, uninterrupted)
    again = [row["step"] for row in run.steps("rl") if row["again"]]
    if checkpoint_every_s > 1000:
        assert {1, 2, 3} <= set(again)  # there was no checkpoint: every recorded step was trained again


def test_a_run_that_is_killed_between_phases_ends_with_the_very_same_weights(uninterrupted: FinishedRun, runs: Path):
    """With an evaluation done and perhaps not committed, and in the middle of fine-tuning."""
    run = FinishedRun(runs / "killed-between")

    def evaluated(weights: str) -> bool:
        return any(row["weights"] == weights for row in run.steps("eval"))

    killed_when(
        run,
        lambda: evaluated("theta-0"),
        command("train", *EXACT, f"cluster.runs_dir={runs}", "--name", run.root.name),
    )
    killed_when(run, lambda: evaluated("rl-0"), command("resume", str(run.root)))
    killed_when(run, lambda: bool(run.steps("rft")), command("resume", str(run.root)))
    rloop("resume", str(run.root))
    assert_same_end(run, uninterrupted)
