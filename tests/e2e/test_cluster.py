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
from cluster.gauges import GAUGES
from cluster.rundir import RunDir

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "recipes/smoke.yaml")
PARITY = """
import time

from verifiers.records import ScoreRequest, Verdict


class Parity:
    name, version = "slow parity", "1"

    def score(self, request: ScoreRequest) -> Verdict:
        time.sleep(0.7)  # a step takes that at least, on the fastest machine
        right = len(request.response) % 2 == 0
        return Verdict(float(right), "correct" if right else "wrong", self.name, self.version)
"""
SMALL = [
    "verifier.name=mine:Parity",
    "trainer.ranks=1",
    "actors.checkpoint_every_s=5",
    "actors.suspect_s=4",
    "actors.silent_s=8",
]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The user's directory, with a verifier of their own."""
    (tmp_path / "mine.py").write_text(PARITY)
    return tmp_path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    home = tmp_path_factory.mktemp("cluster")
    cluster = LocalCluster(home)
    try:
        made = cluster.rloop("token", cwd=ROOT)
        assert made.returncode == 0, made.stdout
        cluster.start_head()
        for _ in range(2):
            cluster.add_node(cpus=3)
        yield cluster
    finally:
        cluster.stop()


def test_who_has_another_token_may_not_even_ask(cluster: LocalCluster, tmp_path: Path) -> None:
    assert (cluster.home / "auth_token").stat().st_mode & 0o777 == 0o600
    (tmp_path / "token").write_text("0" * 64)
    asked = cluster.rloop("status", cwd=ROOT, token=tmp_path / "token")
    assert asked.returncode == Exit.REFUSED
    assert "does not accept our token" in asked.stdout
    assert "No run was submitted" in cluster.rloop("status", cwd=ROOT).stdout


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


def assert_all_gauges_are_shown(cluster: LocalCluster, run: str) -> None:
    """Ray passes them on every few seconds."""
    deadline = time.monotonic() + 30
    while missing := {f"ray_{gauge.name}" for gauge in GAUGES} - cluster.gauges(run):
        assert time.monotonic() < deadline, missing
        time.sleep(1)


def test_a_job_survives_more_workers_fewer_workers_and_the_loss_of_a_node(cluster: LocalCluster, here: Path) -> None:
    run_dir = here / "runs" / "grown"
    length = ["schedule.rl_steps=100", "schedule.iterations=1"]
    submitted = cluster.rloop("submit", RECIPE, "--name", "grown", "--detach", *SMALL, *length, cwd=here)
    assert submitted.returncode == 0, submitted.stdout
    assert "asks for no token" not in submitted.stdout
    again = cluster.rloop("submit", RECIPE, "--name", "grown", cwd=here)
    assert again.returncode == Exit.REFUSED
    assert "is under way as job rloop-grown-1" in again.stdout

    until(cluster, run_dir, "it trains", lambda status: status.phase == "rl" and status.step > 0)
    more = cluster.rloop("scale", "grown", "rollout=2", cwd=here)
    assert more.returncode == 0, more.stdout
    assert more.stdout.splitlines()[-1] == "rollout: 2 of 2"
    fewer = cluster.rloop("scale", str(run_dir), "rollout=1", cwd=here)
    assert fewer.returncode == 0, fewer.stdout

    assert_all_gauges_are_shown(cluster, "grown")

    before = until(cluster, run_dir, "one worker is left", lambda status: status.staff["rollout"] == 1)
    assert before.step < 100, "the run was over before a node was lost"
    cluster.kill_node(cluster.node_of("RolloutWorker"))
    ended = cluster.rloop("logs", "grown", "--follow", cwd=here, timeout_s=300)
    assert ended.returncode == 0, ended.stdout
    assert any(name.startswith("rollout-worker-") for name in victims(run_dir))
    audit = cluster.rloop("audit", str(run_dir), cwd=here)
    assert audit.returncode == 0, audit.stdout


def test_a_colocated_job_that_is_stopped_goes_on_from_its_checkpoint_and_survives_the_loss_of_both_together(
    cluster: LocalCluster, here: Path
) -> None:
    run_dir = here / "runs" / "stopped"
    there = [*SMALL, "cluster.layout=colocated", "schedule.iterations=1", "schedule.rl_steps=40"]
    submitted = cluster.rloop("submit", RECIPE, "--name", "stopped", "--detach", *there, cwd=here)
    assert submitted.returncode == 0, submitted.stdout
    until(cluster, run_dir, "it trains", lambda status: status.phase == "rl" and status.step > 2)
    stopped = cluster.rloop("stop", "stopped", cwd=here)
    assert stopped.returncode == 0, stopped.stdout
    assert "rloop-stopped-1: stopped; " in stopped.stdout
    status = RunDir(run_dir).read_status()
    assert status
    assert status.state == "interrupted"
    assert "no new one could be written" not in status.message
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert 0 < manifest["step"] < 40

    cluster.add_node(cpus=3)  # in the place of the one that was lost
    resumed = cluster.rloop("submit", RECIPE, "--name", "stopped", "--resume", "--detach", *there, cwd=here)
    assert resumed.returncode == 0, resumed.stdout
    until(cluster, run_dir, "it trains again", lambda status: status.phase == "rl" and status.step > manifest["step"])
    home = cluster.node_of("LearnerRank")
    assert cluster.node_of("RolloutWorker") == home
    cluster.kill_node(home)
    ended = cluster.rloop("logs", "stopped", "--follow", cwd=here, timeout_s=300)
    assert ended.returncode == 0, ended.stdout
    assert f"after step {manifest['step']} of 40" in ended.stdout
    assert {name.split("-")[0] for name in victims(run_dir)} >= {"learner", "rollout"}
    table = cluster.rloop("status", "stopped", cwd=here)
    assert "succeeded" in table.stdout
