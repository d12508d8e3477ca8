import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cluster import jobs
from cluster.config import RunConfig
from cluster.exits import Exit
from cluster.jobs import Job, Order, Unreachable, find, follow, killed_early, submit
from cluster.settings import Refused, load


class Cluster:
    """A cluster's jobs in memory; a job's directory is read when it is submitted, as Ray uploads it then."""

    def __init__(self, is_here: bool = True) -> None:
        self.is_here = is_here
        self.known: dict[str, Job] = {}
        self.entrypoints: dict[str, str] = {}
        self.files: dict[str, str] = {}
        self.env: Mapping[str, str] = {}
        self.log_text = ""
        self.tails: list[Callable[[], AsyncIterator[str]]] = []
        self.on_stop: Callable[[Job], Job] = lambda job: replace(job, state="STOPPED")

    def submit(
        self, job_id: str, entrypoint: str, directory: Path, env: Mapping[str, str], metadata: Mapping[str, str]
    ) -> None:
        if job_id in self.known:
            raise Refused([f"{job_id} exists"])
        self.files = {str(p.relative_to(directory)): p.read_text() for p in directory.rglob("*") if p.is_file()}
        self.env = env
        self.entrypoints[job_id] = entrypoint
        self.known[job_id] = Job(job_id, "RUNNING", metadata, began_at=float(len(self.known)))

    def all(self) -> list[Job]:
        return list(self.known.values())

    def stop(self, job_id: str) -> None:
        self.known[job_id] = self.on_stop(self.known[job_id])

    def log(self, job_id: str) -> str:
        return self.log_text

    async def tail(self, job_id: str) -> AsyncIterator[str]:
        async for text in self.tails.pop(0)():
            yield text

    def end(self, job_id: str, exit_code: int) -> None:
        state: jobs.State = "SUCCEEDED" if exit_code == 0 else "FAILED"
        self.known[job_id] = replace(self.known[job_id], state=state, exit_code=exit_code)


def config(*overrides: str, name: str = "demo") -> RunConfig:
    return load(Path("recipes/countdown.yaml"), [f"cluster.name={name}", *overrides])


def order(here: Path, *overrides: str) -> Order:
    return Order(config(*overrides), "/env/bin/rloop", here)


def test_a_job_takes_the_resolved_recipe_along_and_leaves_its_run_where_it_was_submitted(tmp_path: Path) -> None:
    cluster = Cluster()
    job = submit(cluster, order(tmp_path, "rollout.group_size=6"))
    assert cluster.entrypoints == {"rloop-demo-1": "/env/bin/rloop train demo.yaml"}
    assert job.run_dir == str(tmp_path / "runs" / "demo")
    (tmp_path / "copy.yaml").write_text(cluster.files["demo.yaml"])
    there = load(tmp_path / "copy.yaml")
    assert (there.rollout.group_size, there.cluster.ray_address, there.cluster.name) == (6, "auto", "demo")
    assert there.run_dir == tmp_path / "runs" / "demo"
    assert there.digest() == config("rollout.group_size=6").digest()


def test_elsewhere_the_cluster_has_its_own_rloop_and_a_relative_directory_would_be_lost(tmp_path: Path) -> None:
    cluster = Cluster(is_here=False)
    with pytest.raises(Refused, match=r"runs_dir must be absolute on another machine, got 'runs'"):
        submit(cluster, order(tmp_path))
    job = submit(cluster, replace(order(tmp_path, "cluster.runs_dir=/mnt/runs"), resume=True))
    assert cluster.entrypoints[job.id] == "rloop train demo.yaml --resume"
    assert job.run_dir == "/mnt/runs/demo"


def test_a_run_is_under_way_once_and_may_be_submitted_again_when_it_has_ended(tmp_path: Path) -> None:
    cluster = Cluster()
    submit(cluster, order(tmp_path))
    with pytest.raises(Refused, match="run 'demo' is under way as job rloop-demo-1"):
        submit(cluster, order(tmp_path))
    other = submit(cluster, Order(config(name="other"), "rloop", tmp_path))
    assert other.id == "rloop-other-1"
    cluster.end("rloop-demo-1", 1)
    assert submit(cluster, order(tmp_path)).id == "rloop-demo-2"


def test_a_number_is_never_used_again_nor_taken_from_another_kind_of_job(tmp_path: Path) -> None:
    cluster = Cluster()
    for number in (1, 2):
        assert submit(cluster, order(tmp_path)).id == f"rloop-demo-{number}"
        cluster.end(f"rloop-demo-{number}", 0)
    del cluster.known["rloop-demo-1"]  # as `ray job delete` does
    assert submit(cluster, order(tmp_path)).id == "rloop-demo-3"
    assert jobs.run_command(cluster, "scale", ["scale", "runs/demo", "rollout=2"], "rloop").id == "rloop-scale-1"
    assert submit(cluster, Order(config(name="scale"), "rloop", tmp_path)).id == "rloop-scale-2"


def test_ray_is_told_to_wait_for_the_last_checkpoint_before_it_kills(tmp_path: Path) -> None:
    cluster = Cluster()
    submit(cluster, order(tmp_path, "actors.stop_timeout_s=100"))
    assert int(cluster.env["RAY_JOB_STOP_WAIT_TIME_S"]) == 120


def test_modules_of_the_users_that_the_recipe_names_go_along_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Judge: ...")
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "strict.py").write_text("import mine")
    (tmp_path / "rules" / "__pycache__").mkdir()
    (tmp_path / "rules" / "__pycache__" / "strict.pyc").write_text("")
    (tmp_path / "secrets.env").write_text("KEY=1")
    (tmp_path / "prices.csv").write_text("1,2")
    cluster = Cluster()
    named = order(tmp_path, "verifier.name=mine:Judge", "verifier.others={'trl:rules.strict:score': {}}")
    submit(cluster, replace(named, also=[Path("prices.csv")]))
    assert sorted(cluster.files) == ["demo.yaml", "mine.py", "prices.csv", "rules/strict.py"]


def test_what_cannot_be_taken_along_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"--with .*missing: must be a file or directory inside"):
        submit(Cluster(), replace(order(tmp_path), also=[Path("missing")]))
    with pytest.raises(Refused, match=r"--with .*inside"):
        submit(Cluster(), replace(order(tmp_path), also=[Path("/etc/hostname")]))


def test_a_run_is_found_by_its_name_or_its_jobs_the_newest_first(tmp_path: Path) -> None:
    cluster = Cluster()
    with pytest.raises(Refused, match="no run or job is called 'demo' in this cluster; there are none"):
        find(cluster, "demo")
    submit(cluster, order(tmp_path))
    cluster.end("rloop-demo-1", 2)
    submit(cluster, order(tmp_path))
    assert find(cluster, "demo").id == "rloop-demo-2"
    assert find(cluster, "rloop-demo-1").exit == Exit.REFUSED
    with pytest.raises(Refused, match="no run or job is called 'dmo' in this cluster; there are demo"):
        find(cluster, "dmo")


@pytest.mark.parametrize(
    ("state", "exit_code", "ends_with"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", None, 1), ("STOPPED", None, 130), ("FAILED", 130, 130)],
)
def test_the_exit_code_is_that_of_rloop_in_the_job(state: jobs.State, exit_code: int | None, ends_with: int) -> None:
    assert Job("a", state, {}, exit_code=exit_code).exit == ends_with


def test_following_goes_on_after_a_broken_connection_and_says_nothing_twice(tmp_path: Path) -> None:
    cluster = Cluster()
    job = submit(cluster, order(tmp_path))
    cluster.log_text = "one\ntwo\nthree\nfour\n"

    async def breaks() -> AsyncIterator[str]:
        yield "one\n"
        yield "two\n"
        raise Unreachable

    async def goes_on() -> AsyncIterator[str]:
        yield "one\ntwo\nth"
        yield "ree\n"
        cluster.end(job.id, 1)

    cluster.tails = [breaks, goes_on]
    written: list[str] = []
    ended = asyncio.run(follow(cluster, job.id, written.append))
    assert "".join(written) == cluster.log_text
    assert ended.exit == Exit.FAILED


def test_a_cluster_that_stays_silent_is_given_up_and_not_waited_for_for_ever(tmp_path: Path) -> None:
    cluster = Cluster()
    job = submit(cluster, order(tmp_path))
    seconds = iter([500.0, 500.0, 560.0, 561.0])  # it had run for a while without a word

    async def silent() -> AsyncIterator[str]:
        raise Unreachable("gone")
        yield ""

    cluster.tails = [silent, silent]
    with pytest.raises(Unreachable, match="gone"):
        asyncio.run(follow(cluster, job.id, print, clock=lambda: next(seconds)))
    assert cluster.tails == []


def test_a_run_that_exists_is_not_submitted_again_by_mistake(tmp_path: Path) -> None:
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    with pytest.raises(Refused, match=r"demo: a run of this name exists; go on with it: .* resume"):
        submit(Cluster(), order(tmp_path))
    away = Cluster()
    away.is_here = False
    with pytest.raises(Refused, match="must be absolute on another machine"):
        submit(away, order(tmp_path))


def test_a_job_that_ray_would_kill_before_its_checkpoint_says_so() -> None:
    config = RunConfig()
    job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}
    assert "Ray kills this job 3 s after it is asked to stop" in killed_early(config, job)
    assert "start the cluster with RAY_JOB_STOP_WAIT_TIME_S=80" in killed_early(config, job)
    assert killed_early(config, job | {"RAY_JOB_STOP_WAIT_TIME_S": "80"}) == ""
    assert killed_early(config, {}) == ""


def test_stopping_waits_for_the_end_but_not_for_ever(tmp_path: Path) -> None:
    cluster = Cluster()
    submit(cluster, order(tmp_path))
    assert asyncio.run(jobs.stop(cluster, "demo", 5.0)).state == "STOPPED"
    submit(cluster, order(tmp_path))
    cluster.on_stop = lambda job: job
    seconds = iter([0.0, 1.0, 9.0])
    assert asyncio.run(jobs.stop(cluster, "demo", 5.0, clock=lambda: next(seconds))).under_way
