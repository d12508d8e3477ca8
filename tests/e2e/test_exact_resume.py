"""A run that repeats bit for bit, killed as a whole and resumed, ends with the weights of one that was not."""

import subprocess
import time
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


def killed_after(run: FinishedRun, step: int, arguments: list[str]) -> None:
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 250
    while not (run.root / "metrics.jsonl").exists() or not any(row["step"] >= step for row in run.steps("rl")):
        assert process.poll() is None
        assert time.monotonic() < deadline, f"no step {step} within 250 s"
        time.sleep(0.02)
    kill_everything(process)


@pytest.mark.parametrize("checkpoint_every_s", [1e6, 1.0])
def test_a_killed_run_ends_with_the_very_same_weights(
    uninterrupted: FinishedRun, runs: Path, checkpoint_every_s: float
):
    run = FinishedRun(runs / f"killed-{checkpoint_every_s:.0f}")
    settings = [*EXACT, f"actors.checkpoint_every_s={checkpoint_every_s}", f"cluster.runs_dir={runs}"]
    killed_after(run, 3, command("train", *settings, "--name", run.root.name))
    killed_after(run, 5, command("resume", str(run.root)))
    rloop("resume", str(run.root))
    assert run.manifest["weights"] == uninterrupted.manifest["weights"]  # hashes of every tensor of every policy
    assert run.manifest["version"] == uninterrupted.manifest["version"]
    for row, other in zip(run.manifest["evals"], uninterrupted.manifest["evals"], strict=True):
        assert row["metrics"] == other["metrics"]
    again = [row["step"] for row in run.steps("rl") if row["again"]]
    if checkpoint_every_s > 1000:
        assert {1, 2, 3} <= set(again)  # there was no checkpoint: every recorded step was trained again
    assert "The balance closes" in rloop("audit", str(run.root))
