"""What `deploy/ray/local.sh` starts: the demo as a job on its nodes, one node more, and an end that leaves nothing."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from local_cluster import BIN, LocalCluster
from whole_run import ROOT, FinishedRun

from rollout.leash import end_with_parent

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SHORT = [
    "schedule.iterations=1",
    "schedule.rl_steps=3",
    "schedule.warmup_demos=2560",
    "rollout.drop_zero_variance=false",  # after so short a warm-up hardly an answer is right
    "data.countdown.eval_problems=8",
    "eval.samples=4",
    "eval.ks=[1,4]",
]
THREE_NODES = """
import ray

ray.init(log_to_driver=False)

@ray.remote(num_cpus=2)
class Here:
    def node(self):
        return ray.get_runtime_context().get_node_id()

actors = [Here.remote() for _ in range(3)]
print(len(set(ray.get([actor.node.remote() for actor in actors], timeout=120))))
"""


class Script(LocalCluster):
    """`deploy/ray/local.sh`, as a user starts it, on ports of its own."""

    directory: Path | None = None
    """Where Ray's files are, as long as it is up."""

    def start(self) -> None:
        """Returns when both nodes are there."""
        ports = {"RAY_PORT": str(self.port), "DASHBOARD_PORT": str(self.dashboard_port)}
        with self.log.open("wb") as log:
            self.script = subprocess.Popen(
                ["sh", ROOT / "deploy/ray/local.sh"],
                env=self.env | ports | {"BIN": str(BIN)},
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=partial(end_with_parent, signal.SIGTERM),
            )
        self.until("its two nodes", 120, lambda: len(self.raylets()) == 3)
        self.directory = Path(self.raylets()[0].environ()["LOCAL_DIR"])
        self.until("what they are", 60, lambda: len(self.listed("nodes")) == 3)

    @property
    def log(self) -> Path:
        """What the script prints."""
        return self.home / "script.log"

    def until(self, what: str, seconds: float, so: Callable[[], bool]) -> None:
        """Wait for it; fails when the script ends before."""
        deadline = time.monotonic() + seconds
        while not so():
            assert self.script.poll() is None, f"the script ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"not in time: {what}\n{self.log.read_text()}"
            time.sleep(0.5)

    def processes(self) -> list[psutil.Process]:
        """All that knows the token of this cluster: Ray's, the jobs', and those that they started."""
        ours = f"{self.home / 'auth_token'}"
        return [
            process
            for process in psutil.process_iter(["environ", "status"])
            if (process.info["environ"] or {}).get("RAY_AUTH_TOKEN_PATH") == ours
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ]

    def raylets(self) -> list[psutil.Process]:
        """The head's and the nodes'."""
        return [process for process in self.processes() if process.name() == "raylet"]

    def listed(self, what: str) -> list[dict[str, Any]]:
        """What Ray knows of its nodes or actors."""
        command = [BIN / "ray", "list", what, "--detail", "--format=json", "--limit=1000"]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)
        return json.loads(done.stdout) if done.returncode == 0 else []

    def left(self, seconds: float) -> list[str]:
        """Which of its processes are still there so long after the script's end."""
        deadline = time.monotonic() + seconds
        while (alive := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return [" ".join(process.cmdline()) for process in alive]

    def end(self) -> None:
        """Whatever has failed, nothing of it stays."""
        self.script.terminate()
        self.script.wait(30)
        for process in self.processes():
            process.kill()
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Script]:
    script = Script(tmp_path_factory.mktemp("script"))
    try:
        script.start()
        yield script
    finally:
        script.end()


def test_the_token_is_made_for_its_owner_alone(cluster: Script) -> None:
    assert (cluster.home / "auth_token").stat().st_mode & 0o777 == 0o600


def test_the_demo_runs_as_a_job_on_the_nodes_and_nothing_of_it_on_the_head(cluster: Script, tmp_path: Path) -> None:
    submitted = cluster.rloop("submit", str(ROOT / "recipes/demo.yaml"), *SHORT, cwd=tmp_path, timeout_s=400)
    assert submitted.returncode == 0, submitted.stdout
    assert "succeeded" in cluster.rloop("status", "demo", cwd=tmp_path).stdout

    run = FinishedRun(tmp_path / "runs" / "demo")
    assert [row["step"] for row in run.steps("rl")] == [1, 2, 3]
    assert [row["weights"] for row in run.manifest["evals"]] == ["theta-0", "rl-0", "theta-1"]
    audit = cluster.rloop("audit", str(run.root), cwd=tmp_path)
    assert audit.returncode == 0, audit.stdout
    assert "The balance closes" in audit.stdout

    workers = [node["node_id"] for node in cluster.listed("nodes") if not node["is_head_node"]]
    ran = {(actor["class_name"], actor["node_id"]) for actor in cluster.listed("actors")}
    assert len(workers) == 2
    assert {kind for kind, node in ran if node in workers} >= {"RolloutWorker", "LearnerRank"}
    assert not {kind for kind, node in ran if node not in workers} & {"RolloutWorker", "LearnerRank"}


def test_actors_that_find_no_room_are_given_a_third_node(cluster: Script) -> None:
    env = cluster.env | {"RAY_ADDRESS": f"127.0.0.1:{cluster.port}"}
    done = subprocess.run(
        [sys.executable, "-c", THREE_NODES], env=env, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.stdout.split() == ["3"], done.stderr


def test_a_port_that_is_taken_is_named(cluster: Script) -> None:
    command = ["sh", ROOT / "deploy/ray/local.sh"]
    env = cluster.env | {"RAY_PORT": str(cluster.port), "BIN": str(BIN)}
    second = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert f"port {cluster.port} is taken" in second.stderr


def test_nothing_is_left_when_the_script_is_asked_to_end(cluster: Script) -> None:
    assert len(cluster.processes()) > 10
    cluster.script.terminate()
    assert cluster.script.wait(30) == 130
    assert cluster.left(10) == []  # workers end when they miss their raylet
    assert cluster.directory
    assert not cluster.directory.exists()


def test_nothing_is_left_when_the_script_is_killed(tmp_path: Path) -> None:
    cluster = Script(tmp_path)
    try:
        cluster.start()
        cluster.script.kill()
        cluster.script.wait(10)
        assert cluster.left(30) == []
    finally:
        cluster.end()
