import os
import time
from pathlib import Path

import pytest

from actors.records import RunStatus
from cluster import scaling
from cluster.rundir import RunDir
from cluster.settings import Refused


def shows(run_dir: Path, status: RunStatus, layout: str = "disaggregated") -> None:
    RunDir(run_dir).write_status(status)
    RunDir(run_dir).config.write_text(
        f"cluster: {{layout: {layout}}}\ndata: {{task: countdown}}\nverifier: {{name: countdown}}\n"
    )


@pytest.mark.parametrize("words", [[], ["rollout"], ["rollout=0"], ["rollout=two"], ["learner=2"], ["rollout=-1"]])
def test_a_number_that_makes_no_sense_is_refused(words: list[str]) -> None:
    with pytest.raises(Refused):
        scaling.parse(words)
    assert scaling.parse(["rollout=8", "verifiers=2"]) == {"rollout": 8, "verifiers": 2}


def test_a_run_that_is_not_under_way_cannot_be_scaled(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no run is under way there"):
        scaling.ask(tmp_path, {"rollout": 2})
    shows(tmp_path, RunStatus(state="finished"))
    with pytest.raises(Refused, match="no run is under way there"):
        scaling.ask(tmp_path, {"rollout": 2})
    shows(tmp_path, RunStatus(state="running"))
    long_ago = time.time() - 60
    os.utime(tmp_path / "status.json", (long_ago, long_ago))  # its driver died
    with pytest.raises(Refused, match="no run is under way there"):
        scaling.ask(tmp_path, {"rollout": 2})
    assert scaling.asked(tmp_path) == {}


def test_a_colocated_run_has_no_more_workers_than_ranks(tmp_path: Path) -> None:
    shows(tmp_path, RunStatus(state="running"), layout="colocated")
    with pytest.raises(
        Refused, match=r"rollout=2: there is a place beside each learner rank, and no other .* for 1 or fewer"
    ):
        scaling.ask(tmp_path, {"rollout": 2})
    scaling.ask(tmp_path, {"rollout": 1, "verifiers": 2})
    assert scaling.asked(tmp_path) == {"rollout": 1, "verifiers": 2}


def test_what_was_asked_for_stands_until_the_run_is_started_again(tmp_path: Path) -> None:
    shows(tmp_path, RunStatus(state="running"))
    scaling.ask(tmp_path, {"rollout": 2})
    scaling.ask(tmp_path, {"verifiers": 3})
    assert scaling.asked(tmp_path) == {"rollout": 2, "verifiers": 3}
    scaling.forget(tmp_path)
    assert scaling.asked(tmp_path) == {}


def test_waiting_ends_when_all_are_there_or_the_run_is_over_or_time_is_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shows(tmp_path, RunStatus(state="running", staff={"rollout": 1}, message="no room"))
    assert not scaling.wait(tmp_path, {"rollout": 2}, 0.0)
    assert capsys.readouterr().out.splitlines() == [
        "rollout: 1 of 2",
        "not all there after 0 s: no room, or they still come up; the run keeps asking",
        "no room",
    ]
    shows(tmp_path, RunStatus(state="running", staff={"rollout": 2}))
    assert scaling.wait(tmp_path, {"rollout": 2}, 60.0)
    shows(tmp_path, RunStatus(state="finished"))
    assert not scaling.wait(tmp_path, {"rollout": 2}, 60.0)
    assert capsys.readouterr().out.endswith("the run is finished\n")
