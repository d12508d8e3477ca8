"""The check of a machine: what it makes of parts that pass, fail, crash and hang. No part runs here but `device`."""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from cluster.placement import Node, crews, place
from cluster.rules import broken_rules
from cluster.settings import load
from deploy.gpu_check.outcomes import Outcome, exit_code, table, verdict, write_json
from deploy.gpu_check.own_process import run_part
from deploy.gpu_check.place import Wrong
from deploy.gpu_check.whole_run import recipe, summary

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "deploy" / "gpu_check.sh"
PASSED, FAILED = Outcome("device", "pass", 1.6, "one [GPU]"), Outcome("engine", "FAIL", 12.0, "it died")
SKIPPED = Outcome("nccl", "skipped", 0.0, "there is one GPU")


def part(tmp_path: Path, code: str, deadline_s: float = 30) -> Outcome:
    return run_part("engine", [sys.executable, "-c", code], deadline_s, tmp_path)


ANSWER = (
    "import sys; from pathlib import Path; from deploy.gpu_check.own_process import answer; "
    "answer(Path(sys.argv[1]), 'skipped', 'no GPU')"
)
START_A_CHILD = (
    "import subprocess, sys; "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']); print(child.pid, flush=True)"
)


def child_is_gone(tmp_path: Path) -> bool:
    try:
        child = psutil.Process(int((tmp_path / "engine.log").read_text().split()[0]))
        return child.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_part_that_answers_has_its_own_word_for_it(tmp_path):
    said = part(tmp_path, ANSWER)
    assert (said.part, said.status, said.figure) == ("engine", "skipped", "no GPU")


def test_a_part_that_crashes_after_its_answer_has_failed(tmp_path):
    said = part(tmp_path, f"{ANSWER}; import os; os.kill(os.getpid(), 6)")
    assert said.status == "FAIL"
    assert said.figure.startswith("its process was killed by signal 6 after it had answered")


def test_a_part_that_crashes_has_failed_with_its_last_words(tmp_path):
    said = part(tmp_path, "import os, sys; print('illegal memory access', flush=True); os.kill(os.getpid(), 11)")
    assert said.status == "FAIL"
    assert "was killed by signal 11" in said.figure
    assert said.figure.endswith("engine.log: illegal memory access")


def test_a_part_that_ends_without_a_word_has_failed(tmp_path):
    said = part(tmp_path, "")
    assert (said.status, said.figure) == ("FAIL", "its process ended with 0; it printed nothing")


def test_a_part_that_hangs_is_ended_at_its_deadline_with_all_that_it_started(tmp_path):
    began = time.monotonic()
    said = part(tmp_path, f"{START_A_CHILD}; import time; time.sleep(99)", deadline_s=3)
    assert said.status == "FAIL"
    assert said.figure.startswith("not done in 3 s")
    assert time.monotonic() - began < 30
    assert child_is_gone(tmp_path)


def test_what_a_part_leaves_behind_is_ended_too(tmp_path):
    part(tmp_path, START_A_CHILD)
    assert child_is_gone(tmp_path)


def test_only_a_failure_makes_the_exit_code_1():
    assert exit_code([PASSED, SKIPPED]) == 0
    assert exit_code([PASSED, FAILED, SKIPPED]) == 1


def test_the_table_shows_every_part_and_the_sentence_calls_nothing_skipped_good():
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(table("cuda", [PASSED, FAILED, SKIPPED]))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in console.export_text().splitlines()]
    assert ["device", "pass", "2", "one [GPU]"] in rows
    assert ["engine", "FAIL", "12", "it died"] in rows
    assert ["nccl", "skipped", "0", "there is one GPU"] in rows
    assert verdict([PASSED, FAILED, SKIPPED]) == "1 passed, 1 failed, 1 skipped: not tried here."


def test_the_file_has_every_part(tmp_path):
    write_json(tmp_path / "out.json", "cpu", [SKIPPED])
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "device": "cpu",
        "parts": [{"part": "nccl", "status": "skipped", "seconds": 0.0, "figure": "there is one GPU"}],
    }


def test_a_run_that_never_trained_is_found_out():
    sync, rl = {"phase": "sync", "probe_max_diff": 0.02}, {"phase": "rl", "reward": 0.25}
    others = [{"phase": "rft"}, {"phase": "eval"}]
    assert summary([rl, sync, rl | {"reward": 0.5}, *others]).startswith(
        "2 RL and 1 RFT steps, 1 weight syncs off by at"
    )
    with pytest.raises(Wrong, match="no line of rl, rft to"):
        summary([sync, {"phase": "eval"}])


@pytest.mark.parametrize(("gpus", "layout"), [(1, "colocated"), (2, "disaggregated")])
def test_the_run_of_the_last_part_fits_one_gpu_as_well_as_two(gpus, layout):
    name, *overrides = recipe("cuda", gpus)
    config = load(Path(name), overrides)
    assert broken_rules(config) == []
    assert config.cluster.layout == layout
    assert config.rollout.engine.dtype == config.trainer.compute_dtype == "bfloat16"
    assert place(crews(config, on_gpu=True), [Node("here", 16, gpus)]).problems == ()
    assert place(crews(config, on_gpu=True), [Node("here", 16, gpus - 1)]).problems != ()


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
def test_without_a_gpu_the_device_fails_and_the_others_are_skipped_not_passed(tmp_path):
    command = [str(SCRIPT), "--only", "device,nccl", "--json", "out.json"]
    environ = {"PATH": "/usr/bin:/bin", "VENV": sys.prefix, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=250)
    assert done.returncode == 1, done.stderr
    found = {one["part"]: one for one in json.loads((tmp_path / "out.json").read_text())["parts"]}
    assert found["device"]["status"] == "FAIL"
    assert "sees no GPU" in found["device"]["figure"]
    assert found["nccl"]["status"] == "skipped"
    assert "Logs, model and run:" in done.stdout
