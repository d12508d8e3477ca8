"""A run as a job on a cluster of three nodes that grows, shrinks and loses one of them."""

import json
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from local_cluster import LocalCluster

from actors.records import RunStatus
from cluster.exits import Exit
from cluster.rundir import RunDir

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
RECIPE = "recipes/smoke.yaml"
SMALL = ["trainer.ranks=1", "actors.checkpoint_every_s=5", "actors.suspect_s=4", "actors.silent_s=8"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    home = tmp_path_factory.mktemp("cluster")
    cluster = LocalCluster(home)
    try:
        made = cluster.rloop("token", cwd=ROOT)
        assert made.returncode == 0, made.stdout
        cluster.start_head()
        for _ in range(2):
            cluster.add_node(cpus=2)
        yield cluster
    finally:
        cluster.stop()


def until(cluster: LocalCluster, run_dir: Path, what: str, of: Callable[[RunStatus], bool]) -> RunStatus:
    """The first picture of a run that is so; fails when its job ends before, or after three minutes."""
    deadline = time.monotonic() + 180
    status = None
    for turn in count():
        status = RunDir(run_dir).read_status()
        if status and of(status):
            return status
        over = turn % 30 == 29 and "running" not in cluster.rloop("status", run_dir.name, cwd=ROOT).stdout
        assert not over, f"over before {what}:\n{cluster.rloop('logs', run_dir.name, cwd=ROOT).stdout}"
        assert time.monotonic() < deadline, f"not in time: {what}; the run is at {status}"
        time.sleep(0.3)
    raise AssertionError


def victims(run_dir: Path) -> list[str]:
    """Who was lost."""
    return [json.loads(line)["victim"] for line in (run_dir / "incidents.jsonl").read_text().splitlines()]


def test_a_job_survives_more_workers_fewer_workers_and_the_loss_of_a_node(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    run_dir = tmp_path / "runs" / "grown"
    length = ["schedule.rl_steps=60", "schedule.iterations=1"]
    submitted = cluster.rloop(
        "submit", RECIPE, "--name", "grown", "--detach", f"cluster.runs_dir={run_dir.parent}", *SMALL, *length, cwd=ROOT
    )
    assert submitted.returncode == 0, submitted.stdout
    assert "asks for no token" not in submitted.stdout
    again = cluster.rloop("submit", RECIPE, "--name", "grown", cwd=ROOT)
    assert again.returncode == Exit.REFUSED
    assert "is under way as job rloop-grown-1" in again.stdout

    until(cluster, run_dir, "it trains", lambda status: status.phase == "rl" and status.step > 0)
    more = cluster.rloop("scale", "grown", "rollout=2", cwd=ROOT)
    assert more.returncode == 0, more.stdout
    assert more.stdout.splitlines()[-1] == "rollout: 2 of 2"
    fewer = cluster.rloop("scale", str(run_dir), "rollout=1", cwd=ROOT)
    assert fewer.returncode == 0, fewer.stdout

    before = until(cluster, run_dir, "one worker is left", lambda status: status.staff["rollout"] == 1)
    assert before.step < 60, "the run was over before a node was lost"
    cluster.kill_node(cluster.node_of("RolloutWorker"))
    ended = cluster.rloop("logs", "grown", "--follow", cwd=ROOT, timeout_s=300)
    assert ended.returncode == 0, ended.stdout
    assert any(name.startswith("rollout-worker-") for name in victims(run_dir))
    audit = cluster.rloop("audit", str(run_dir), cwd=ROOT)
    assert audit.returncode == 0, audit.stdout


def test_a_job_that_is_stopped_goes_on_from_its_checkpoint_and_survives_the_loss_of_its_learner(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    run_dir = tmp_path / "runs" / "stopped"
    there = [f"cluster.runs_dir={run_dir.parent}", *SMALL, "schedule.iterations=1", "schedule.rl_steps=40"]
    submitted = cluster.rloop("submit", RECIPE, "--name", "stopped", "--detach", *there, cwd=ROOT)
    assert submitted.returncode == 0, submitted.stdout
    until(cluster, run_dir, "it trains", lambda status: status.phase == "rl" and status.step > 2)
    stopped = cluster.rloop("stop", "stopped", cwd=ROOT)
    assert stopped.returncode == 0, stopped.stdout
    assert "rloop-stopped-1: stopped." in stopped.stdout
    status = RunDir(run_dir).read_status()
    assert status
    assert status.state == "interrupted"
    assert "no new one could be written" not in status.message
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert 0 < manifest["step"] < 40

    cluster.add_node(cpus=2)  # in the place of the one that was lost
    resumed = cluster.rloop("submit", RECIPE, "--name", "stopped", "--resume", "--detach", *there, cwd=ROOT)
    assert resumed.returncode == 0, resumed.stdout
    until(cluster, run_dir, "it trains again", lambda status: status.phase == "rl" and status.step > manifest["step"])
    cluster.kill_node(cluster.node_of("LearnerRank"))
    ended = cluster.rloop("logs", "stopped", "--follow", cwd=ROOT, timeout_s=300)
    assert ended.returncode == 0, ended.stdout
    assert f"after step {manifest['step']} of 40" in ended.stdout
    assert any(name.startswith("learner-") for name in victims(run_dir))
    table = cluster.rloop("status", "stopped", cwd=ROOT)
    assert "succeeded" in table.stdout
