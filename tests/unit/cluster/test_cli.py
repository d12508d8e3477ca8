import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli import guarded
from cluster.exits import Exit
from cluster.settings import Refused

RECIPE = "data: {task: countdown}\nverifier: {name: countdown}\n"


def rloop(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def test_help_teaches_by_example_and_names_the_exit_codes(tmp_path: Path) -> None:
    done = rloop("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "rloop train recipes/demo.yaml" in done.stdout
    assert "130  interrupted after a checkpoint" in done.stdout
    assert "Traceback" not in done.stderr


def test_version(tmp_path: Path) -> None:
    done = rloop("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "rloop 0.1.0\n")


def test_a_wrong_command_line_ends_with_two(tmp_path: Path) -> None:
    assert rloop("train", cwd=tmp_path).returncode == 2
    assert rloop("trian", cwd=tmp_path).returncode == 2


def test_a_wrong_config_ends_with_two_and_sentences_and_leaves_nothing(recipe: Path) -> None:
    done = rloop("train", str(recipe), "rollout.group_sise=3", cwd=recipe.parent)
    assert done.returncode == 2
    assert done.stderr == (
        "rloop: refused, 1 problem:\n"
        "  * command line: rollout.group_sise: no such key; did you mean rollout.group_size?\n"
    )
    assert list(recipe.parent.iterdir()) == [recipe]


def test_a_shown_run_goes_to_standard_output_alone(recipe: Path) -> None:
    done = rloop("config", "show", str(recipe), "rollout.group_size=5", cwd=recipe.parent)
    assert done.returncode == 0
    assert "  group_size: 5 " in done.stdout
    assert done.stderr == ""


def raises(error: BaseException) -> int:
    def command() -> None:
        raise error

    return guarded(command)


def test_a_users_mistake_has_no_traceback_and_ours_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert raises(Refused(["a", "b"])) == Exit.REFUSED
    assert capsys.readouterr().err == "rloop: refused, 2 problems:\n  * a\n  * b\n"
    assert raises(ZeroDivisionError("ours")) == Exit.FAILED
    assert "ZeroDivisionError: ours" in capsys.readouterr().err
    assert raises(KeyboardInterrupt()) == Exit.INTERRUPTED
    assert raises(SystemExit(3)) == Exit.UNFIT
    assert guarded(lambda: None) == Exit.DONE
