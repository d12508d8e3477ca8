import subprocess
import sys
from pathlib import Path

from verifiers.catalogue import load
from verifiers.records import ScoreRequest

ROOT = Path(__file__).parents[3]


def dry_run(*arguments: str) -> str:
    """What `rloop train … --dry-run` prints, once it found nothing wrong."""
    rloop = Path(sys.executable).with_name("rloop")
    done = subprocess.run(
        [rloop, "train", *arguments, "--dry-run", "--name", "never-started"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "nothing was started" in done.stdout
    return done.stdout


def test_a_verifier_in_the_current_directory_is_found_by_its_import_path():
    dry_run(
        *("recipes/gsm8k.yaml", "data.path=tests/data/grade_school.jsonl"),
        "verifier.name=examples.palindrome:Palindrome",
    )


def test_programs_of_a_set_are_tried_in_the_sandbox_before_anything_starts():
    data = ("data.path=tests/data/programs.jsonl", "data.response_key=response")
    assert "7 of 7 gold answers score as correct with 'code'" in dry_run("recipes/code.yaml", *data)


def test_the_example_accepts_its_gold_answer_and_rejects_traps(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    verifier = load("examples.palindrome:Palindrome")

    def reward(response: str) -> float | None:
        return verifier.score(ScoreRequest("", response, reference="anna")).reward

    assert reward("anna") == reward("xannax") == 1.0
    assert reward("") == reward("anna!") == reward("otto") == 0.0
