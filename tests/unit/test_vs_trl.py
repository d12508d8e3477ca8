import importlib
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("processes")


@pytest.fixture
def versus(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("vs_trl")


def side(versus: ModuleType, rewards: list[float]):
    """A step each 2 s, from second 10 on; 4 answers of 7 tokens each."""
    steps = [versus.Step(12.0 + 2 * i, 4, reward, 7.0, {"work": 1.5}) for i, reward in enumerate(rewards)]
    return versus.Side(start_s=3.0, began=10.0, steps=steps, tree=None)


def test_a_reward_is_reached_when_the_mean_of_five_steps_is_there(versus):
    rewards = [0.0, 1.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5]
    # Means of five, from the fifth step on: .2, .3, .2, .3
    assert side(versus, rewards).reaches(0.2) == 10.0
    assert side(versus, rewards).reaches(0.3) == 12.0
    assert side(versus, rewards).reaches(0.31) is None
    assert side(versus, [1.0] * 4).reaches(0.1) is None


def test_the_first_three_steps_do_not_count(versus):
    found = side(versus, [0.0] * 8)
    assert found.samples == 20
    assert found.seconds == 10.0
    assert found.spent() == {"work": 7.5}


def test_cpu_time_is_told_apart_by_command_line_and_children_are_of_their_parents_kind(processes, tmp_path):
    burn = "import time; all(iter(lambda: time.process_time() < {}, False)); time.sleep(2)"  # and is seen at rest
    script = tmp_path / "tree.py"
    script.write_text(
        f"""
import subprocess, sys, time
loud = subprocess.Popen([sys.executable, "-c", {burn.format(2.0)!r}, "loud"])
mother = "import subprocess, sys; subprocess.run([sys.executable, '-c', {burn.format(1.0)!r}])"
quiet = subprocess.Popen([sys.executable, "-c", mother, "quiet"])
loud.wait(), quiet.wait()
"""
    )
    log = tmp_path / "log"
    tree = processes.run([sys.executable, str(script)], tmp_path, log, {"loud": "L", "quiet": "Q"}, 60)
    spent = tree.between(0, time.time())
    assert spent["L"] > spent["Q"] > 0
    assert spent["L"] == pytest.approx(2.0, abs=0.5)


def test_a_command_that_fails_says_what_its_log_ends_with(processes, tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)code 3.*the reason"):
        processes.run(
            [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], tmp_path, tmp_path / "log", {}, 60
        )


def test_a_command_that_takes_too_long_is_ended(processes, tmp_path):
    with pytest.raises(RuntimeError, match=r"not done in 0\.5 s"):
        processes.run(["sleep", "612.25"], tmp_path, tmp_path / "log", {}, 0.5)
    assert subprocess.run(["pgrep", "-fx", "sleep 612.25"], capture_output=True).stdout == b""
