import subprocess
import sys
from pathlib import Path

import pytest

from actors.records import BufferStatus, EvalRow, RunStatus
from cluster.config import RunConfig
from cluster.rundir import RunDir, saved_config
from cluster.settings import Refused

CONFIG = RunConfig.model_validate(
    {"data": {"task": "countdown"}, "verifier": {"name": "countdown"}, "cluster": {"name": "a"}}
)


def test_a_run_directory_appears_whole_and_only_once(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs" / "a")
    run.create(CONFIG)
    assert sorted(path.name for path in run.root.iterdir()) == ["config.yaml", "logs"]
    assert run.root.stat().st_mode & 0o777 == 0o700  # prompts and answers are nobody else's
    with pytest.raises(FileExistsError):
        run.create(CONFIG)
    assert [path.name for path in run.root.parent.iterdir()] == ["a"]


def test_the_status_survives_the_disk(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.read_status() is None
    status = RunStatus(
        state="running",
        phase="rl",
        metrics={"reward": 0.5},
        buffer=BufferStatus(dropped={"stale": 1}),
        evals=(EvalRow("base", "base policy", {"pass@1": 0.25}, 3, 4),),
    )
    run.write_status(status)
    assert run.read_status() == status
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_saved_run_is_loaded_as_it_was_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunDir(tmp_path / "a").create(CONFIG)
    monkeypatch.setenv("RLOOP_ROLLOUT__GROUP_SIZE", "99")
    assert saved_config(tmp_path / "a", []) == CONFIG


def test_a_resumed_run_may_go_on_longer_but_not_compute_something_else(tmp_path: Path) -> None:
    RunDir(tmp_path / "a").create(CONFIG)
    assert saved_config(tmp_path / "a", ["schedule.iterations=7"]).schedule.iterations == 7
    with pytest.raises(Refused) as refused:
        saved_config(tmp_path / "a", ["rollout.group_size=4", "cluster.seed=3", "actors.stall_s=9"])
    assert [problem.split(";")[0] for problem in refused.value.problems] == [
        "rollout.group_size must stay as it was in a resumed run, got 4 instead of 8",
        "cluster.seed must stay as it was in a resumed run, got 3 instead of 0",
    ]


def test_resuming_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"not a run directory \(no config.yaml\)"):
        saved_config(tmp_path, [])


def test_two_processes_never_work_on_one_run_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from cluster.rundir import RunDir
with RunDir(Path({str(tmp_path)!r})).claim():
    print("mine", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(Refused, match="another rloop is at work on this run"), RunDir(tmp_path).claim():
            pass
        other.kill()
        other.wait(10)
    with RunDir(tmp_path).claim():
        pass
