"""`rloop verify` on files and on a run, with real verifier processes."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.config import RunConfig
from cluster.fields import as_yaml
from cluster.settings import Refused, load
from cluster.verification import GIVEN, Asked, judge_all
from rollout.countdown import solve
from rollout.countdown_sets import training_problems
from rollout.data_errors import Complaints
from rollout.events import Finished, Leased, PhaseBegun
from rollout.journal import Journal
from rollout.payloads import to_batch
from rollout.problem_files import load_files
from rollout.problems import RawProblem
from rollout.prompts import encode_prompts
from rollout.records import GroupKey, Rollout, RolloutGroup, Segment
from rollout.storage import LocalDisk
from trainer.scratch_tokenizer import make_tokenizer
from verifiers.records import ScoreRequest, Verdict
from verifiers.spec import VerifierSpec

RECIPE = Path(__file__).parents[3] / "recipes" / "demo.yaml"
ROWS = [
    {"id": "a", "question": "6·7?", "answer": "so 42\n#### 42", "completion": r"it is \boxed{42}"},
    {"id": "b", "question": "6·7?", "answer": "#### 42", "completion": "the answer is 41"},
    {"id": "c", "question": "6·7?", "answer": "#### 42", "completion": r"\boxed{9^{9^{9^{9}}}}"},
]


def rows_file(directory: Path, rows: list[dict] = ROWS) -> Path:
    path = directory / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rloop(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, " ".join(done.output.split())


def test_given_responses_get_a_line_each(tmp_path: Path) -> None:
    out = tmp_path / "verdicts.jsonl"
    code, text = rloop("verify", rows_file(tmp_path), "--response", "completion", "--out", out, "--recheck", 1)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert code == 0
    assert [(line["id"], line["status"], line["reward"]) for line in lines] == [
        ("a", "correct", 1.0),
        ("b", "wrong", 0.0),
        ("c", "timeout", None),
    ]
    assert lines[0]["parts"] == {"answer": 1.0, "marked": 1.0}
    assert (lines[1]["extracted"], lines[1]["expected"], lines[1]["rule"]) == ("41", "42", "number")
    assert all(0 <= line["seconds"] < 4 for line in lines)
    assert "judged again: 3, of these with another verdict: 0" in text


def test_gold_answers_and_traps_try_a_verifier(tmp_path: Path) -> None:
    out = tmp_path / "verdicts.jsonl"
    code, text = rloop("verify", rows_file(tmp_path), "--verifier", "math", "--out", out)
    assert code == 0
    assert "Gold answers accepted: 3 of 3; traps accepted: 0. Verifier 'math' fits these data." in text
    kinds = [json.loads(line)["kind"] for line in out.read_text().splitlines()]
    assert kinds == ["gold", "empty", "misplaced", "injected"] * 3


PLUGIN = """
import os
from verifiers.records import Verdict

class Gullible:
    name, version = "gullible", "1"
    def __init__(self, word="correct"):
        self.word = word
    def gold(self, reference):
        return reference
    def score(self, request):
        right = request.response == request.reference or self.word in request.response
        return Verdict(float(right), "correct" if right else "wrong", self.name, self.version)

class Moody:
    name, version = "moody", "1"
    def score(self, request):
        return Verdict(float(os.urandom(4)[0]), "wrong", self.name, self.version)
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_judges.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugins")
def test_a_verifier_that_falls_for_a_trap_does_not_fit(tmp_path: Path) -> None:
    rows = rows_file(tmp_path, [row | {"answer": "42"} for row in ROWS])
    code, text = rloop("verify", rows, "--verifier", "odd_judges:Gullible")
    assert code == 1
    assert "Gold answers accepted: 3 of 3; traps accepted: 3." in text
    assert "injected" in text
    code, text = rloop("verify", rows, "--verifier", "odd_judges:Gullible", "--option", "word=abracadabra")
    assert code == 0


@pytest.mark.usefixtures("plugins")
def test_a_verifier_that_says_now_this_now_that_is_found_out() -> None:
    asked = [Asked(str(i), GIVEN, ScoreRequest("", "", ""), VerifierSpec("odd_judges:Moody")) for i in range(40)]
    found = judge_all(asked, processes=1, recheck=0.5, told=lambda _: None)
    assert 8 <= found.rechecked <= 32
    assert len(found.disagreements) > found.rechecked / 2


def test_what_cannot_be_done_is_refused_with_the_way_out(tmp_path: Path) -> None:
    rows = rows_file(tmp_path)
    with pytest.raises(Refused, match="either DATA or --run"):
        rloop("verify")
    with pytest.raises(Refused, match="did you mean 'math'"):
        rloop("verify", rows, "--verifier", "maths", "--response", "completion")
    sums = rows_file(tmp_path, [{"question": "24 of 3, 7, 2, 5?", "answer": "3,7,2,5>24"}])
    with pytest.raises(Refused, match="--gold, or the one to be judged with --response"):
        rloop("verify", sums, "--verifier", "countdown")


@pytest.mark.parametrize("more", [[], ["--response", "completion"], ["--gold", "completion"]])
def test_references_that_the_verifier_cannot_read_are_refused_with_row_and_remedy(
    tmp_path: Path, more: list[str]
) -> None:
    with pytest.raises(Refused) as refused:
        rloop("verify", rows_file(tmp_path), "--verifier", "countdown", *more)
    summary, first, *_ = refused.value.problems
    assert summary.startswith("'countdown' can read 0 of 3 references: see whether they are the right column (--refer")
    assert "(--verifier; docs/verifiers.md shows what each reads), mend or drop the rows" in summary
    assert first == (
        r"rows.jsonl:1: reference 'so 42\n#### 42': any answer is error, ValueError: a countdown reference looks like "
        r"'3,7,2,5>24', got 'so 42\n#### 42'"
    )


def test_rows_are_judged_by_the_verifier_that_they_name_unless_the_command_names_one(tmp_path: Path) -> None:
    out = tmp_path / "verdicts.jsonl"
    mixed = [
        {"question": "6·7?", "answer": "42", "completion": "the answer is 42.0"},
        {"question": "6·7?", "answer": "42", "completion": "the answer is 42.0", "verifier": "exact"},
    ]

    def verdicts(*more: str) -> list[tuple[str, str]]:
        rloop("verify", rows_file(tmp_path, mixed), "--response", "completion", "--out", out, *more)
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        return [(line["verifier"], line["status"]) for line in lines]

    assert verdicts() == [("math", "correct"), ("exact", "wrong")]
    assert verdicts("--verifier", "math") == [("math", "correct")] * 2
    code, text = rloop("verify", rows_file(tmp_path, mixed))
    assert "Gold answers accepted: 2 of 2; traps accepted: 0. Verifier 'math', 'exact' fits these data." in text
    assert code == 0
    with pytest.raises(Refused, match="column 'verifier': no verifier is called 'exakt'; did you mean 'exact'"):
        rloop("verify", rows_file(tmp_path, [mixed[0] | {"verifier": "exakt"}]))


def finished_run(directory: Path) -> Path:
    """One group of four answers to a training problem of the demo, all of them recorded as wrong."""
    config = load(RECIPE, [])
    problem = training_problems(config.data.countdown, config.cluster.seed)[0]
    numbers, target = problem.answer.split(">")
    right = solve(tuple(map(int, numbers.split(","))), int(target))
    return written_run(
        directory / "run", config, make_tokenizer("countdown", 128), problem, [right, "1+1=3", right, "2"]
    )


def written_run(run: Path, config: RunConfig, tokenizer: Any, problem: RawProblem, answers: Sequence[str]) -> Path:
    """A run with one group of answers."""
    run.mkdir()
    (run / "config.yaml").write_text(as_yaml(config))
    tokenizer.save_pretrained(run / "model")
    noted = {"model_dir": str(run / "model"), "warmup_dataset": "", "base_cache": ""}
    (run / "materials.json").write_text(json.dumps(noted))
    (prompt,) = encode_prompts([problem], tokenizer, "", 128, Complaints())
    rollouts = []
    for i, text in enumerate(answers):
        ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        segment = Segment.of(ids, [0.0] * len(ids), [0] * len(ids), "stop")
        verdict = Verdict(0.0, "wrong", "countdown", "0")
        mask = np.ones(len(ids), np.bool_)
        rollouts.append(Rollout(prompt.id, i, np.array(prompt.token_ids, np.int32), segment, mask, verdict, "finished"))
    group = RolloutGroup(GroupKey("train", 0, prompt.id), prompt, tuple(rollouts))

    async def write() -> None:
        journal = Journal(LocalDisk(run / "journal"), "d" * 64)
        journal.post(PhaseBegun("rl", 0, 0, 20))
        journal.post(Leased(group.key, "w", 0))
        journal.post(Finished(group.key, "w", 0, journal.add(to_batch(group, 0, 3)), 0, 0, "buffered"))
        await journal.close()

    asyncio.run(write())
    return run


def test_a_finished_run_is_judged_anew_and_what_would_change_is_shown(tmp_path: Path) -> None:
    run, out = finished_run(tmp_path), tmp_path / "anew.jsonl"
    code, text = rloop("verify", "--run", run, "--out", out)
    assert code == 0
    assert "4 answers of run, judged by countdown 0, now by countdown 1: 2 verdicts would change (50.00%)" in text
    assert "│ wrong │ correct │ 2 │" in text
    assert "│ wrong │ the same │ 2 │" in text
    assert "│ iteration 1 │ 0.0000 │ 0.5000 │" in text
    assert [json.loads(line)["status"] for line in out.read_text().splitlines()] == ["correct", "wrong"] * 2


def test_a_run_of_a_set_with_a_verifier_of_its_own_is_judged_anew_by_that_one(tmp_path: Path) -> None:
    rows = [{"id": f"q{i}", "question": f"Spell {i}.", "answer": f"word {i}"} for i in range(4)]
    source = f"data.sources=[{{path: {rows_file(tmp_path, rows)}, name: words, verifier: exact}}]"
    config = load(RECIPE.with_name("gsm8k.yaml"), [source])
    (problem, *_), *_ = (source.problems for source in load_files(config.data).train)
    number = problem.id.removeprefix("q")
    answers = [f"word {number}", "no"]
    run = written_run(tmp_path / "run", config, make_tokenizer("bytes", 128), problem, answers)
    code, text = rloop("verify", "--run", run)
    assert code == 0
    assert "2 answers of run, judged by countdown 0, now by exact 2: 1 verdicts would change (50.00%)" in text
