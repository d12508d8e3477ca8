"""Saves that end badly, in processes of their own: what was saved before is whole and the same."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def hurt(how: str, model_dir: Path, folder: Path) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("hurt_saves.py")), how, str(model_dir), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=250)
    if run.returncode == 77:
        pytest.skip("this user may not mount a tmpfs")
    assert run.returncode == 0, run.stderr
    report: dict[str, Any] = json.loads(run.stdout)
    return report


def test_a_kill_at_any_moment_of_a_save_leaves_whole_checkpoints_and_drafts(model_dir: Path, tmp_path: Path) -> None:
    report = hurt("killed", model_dir, tmp_path)
    assert report["differ"] == []
    assert report["first"] == 8  # the one before, of every kill
    assert report["drafts"] > 0  # some were killed in the middle


@pytest.mark.parametrize("how", ["limit", "tmpfs"])
def test_a_full_disk_is_told_and_leaves_the_checkpoint_before_and_no_draft(
    how: str, model_dir: Path, tmp_path: Path
) -> None:
    report = hurt(how, model_dir, tmp_path)
    sentence = r"checkpoint \S+/after could not be written \(.*\): it takes [\d,]+ bytes and [\d,]+ are free there; "
    assert re.match(sentence + "make room, or lower trainer.keep_checkpoints", report["message"])
    assert report["left"] == ["before"]
    assert report["same"]
    assert report["after"]  # and with room again, saving goes on
