import asyncio
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from actors.manifest import Manifest
from cluster.cli import app
from cluster.exits import Exit
from cluster.expert_export import _user_text
from cluster.experts import show_experts
from cluster.fields import as_yaml
from cluster.settings import Refused, load
from rollout.data_errors import Complaints
from rollout.datasets import SupervisedDataset
from rollout.events import Finished, Leased, PhaseBegun
from rollout.journal import Journal
from rollout.payloads import to_batch
from rollout.problems import RawProblem
from rollout.prompts import encode_prompts
from rollout.records import GroupKey, Rollout, RolloutGroup, Segment
from rollout.storage import LocalDisk
from trainer.phases import Phase
from trainer.scratch_tokenizer import make_tokenizer
from verifiers.records import Verdict

RECIPE = Path(__file__).parents[3] / "recipes" / "demo.yaml"
TOKENIZER = make_tokenizer("bytes", 256)
QUESTIONS = {"easy": "1+1?", "hard": "What is 6·7?\n", "wrong": "P=NP?"}


def group(name: str, epoch: int, answers: list[tuple[str, bool]], step: int) -> RolloutGroup:
    [prompt] = encode_prompts(
        [RawProblem(name, QUESTIONS[name], "!", "here")], TOKENIZER, "Be brief.", 256, Complaints()
    )
    rollouts = []
    for i, (text, right) in enumerate(answers):
        ids = [*TOKENIZER.encode(text, add_special_tokens=False), TOKENIZER.eos_token_id]
        segment = Segment.of(ids, [0.0] * len(ids), [step] * len(ids), "stop")
        verdict = Verdict(float(right), "correct" if right else "wrong", "exact", "1")
        mask = np.ones(len(ids), np.bool_)
        rollouts.append(Rollout(name, i, np.array(prompt.token_ids, np.int32), segment, mask, verdict, "finished"))
    return RolloutGroup(GroupKey("train", epoch, name), prompt, tuple(rollouts))


HISTORY = [
    (0, group("easy", 0, [("2", True), ("two", True)], 0), 0),
    (0, group("hard", 0, [("42", True), ("41", False), ("é 42", True), ("7", False)], 3), 3),
    (0, group("wrong", 0, [("yes", False), ("no", False)], 3), 3),
    (1, group("hard", 1, [("42", True), ("42", True), ("forty-two", True), ("1", False)], 9), 12),
]


def make_run(directory: Path, history: list[tuple[int, RolloutGroup, int]]) -> Path:
    run = directory / "run"
    run.mkdir()
    (run / "config.yaml").write_text(as_yaml(load(RECIPE, ["schedule.tau_hard=0.9", "schedule.max_per_prompt=2"])))
    TOKENIZER.save_pretrained(run / "model")
    noted = {"model_dir": str(run / "model"), "warmup_dataset": "", "base_cache": ""}
    (run / "materials.json").write_text(json.dumps(noted))

    async def write() -> None:
        journal, under_way = Journal(LocalDisk(run / "journal"), "d" * 64), -1
        for iteration, made, step in history:
            if iteration > under_way:
                journal.post(PhaseBegun("rl", iteration, 20 * iteration, 20))
                under_way = iteration
            journal.post(Leased(made.key, "w", 0))
            ref = journal.add(to_batch(made, iteration, step))
            journal.post(Finished(made.key, "w", 0, ref, step, step, "buffered"))
        await journal.close()

    asyncio.run(write())
    Manifest("digest", done=(Phase("rl", 0, "theta-0", "rl-0"),)).save(LocalDisk(run))
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path, HISTORY)


def shown(run: Path, **options: Any) -> str:
    """What is printed, with runs of blanks made one."""
    console = Console(record=True, width=120, file=io.StringIO())
    asked = {"iteration": None, "tau_hard": None, "max_per_prompt": None, "last_steps": None, "out": None} | options
    assert show_experts(run, console, **asked) == Exit.DONE
    return "\n".join(" ".join(line.split()) for line in console.export_text().splitlines())


def test_the_newest_iteration_is_shown_under_the_rule_of_the_run(run: Path) -> None:
    text = shown(run)
    assert "Expert set of iteration 2, so far: success rate above 0 and at most 0.9, 2 or fewer per problem" in text
    assert "with a verdict 4 1" in text
    assert "wrong; problems never solved 1 -" in text
    assert "left out: same tokens as an earlier one 1 -" in text
    assert "left out: beyond 2 per problem - -" in text
    assert "kept 2 1" in text
    assert "12 2 ██" in text
    assert "13 tokens; mean success rate of the problems kept: 0.750" in text
    assert "Diversity of the answers kept to one problem: 1.000" in text


def test_an_iteration_counts_from_one_and_each_answer_is_in_one_row(run: Path) -> None:
    text = shown(run, iteration=1)
    assert "Expert set of iteration 1: success rate" in text  # its phase is over
    assert "with a verdict 8 3" in text
    assert "wrong; problems never solved 4 1" in text
    assert "correct; problems solved 4 2" in text
    assert "left out: problem too easy 2 1" in text
    assert "kept 2 1" in text
    assert "\n0 -\n" in text
    assert f"3 2 {'█' * 40}" in text


def test_another_rule_can_be_tried(run: Path) -> None:
    text = shown(run, iteration=1, tau_hard=1.0, max_per_prompt=1)
    assert "at most 1, 1 or fewer per problem" in text
    assert "left out: beyond 1 per problem 2 2" in text
    assert "Diversity" not in text  # no problem has two
    assert "with a verdict 6 2" in shown(run, iteration=1, last_steps=1)


def test_the_schedule_of_the_run_says_which_steps_count(run: Path) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("scheduler: rloop ", "scheduler: rloop-last-step-only "))
    assert "from the last 1 steps alone" in shown(run, iteration=1)
    assert "alone" not in shown(run, iteration=1, last_steps=0)


def test_the_chat_file_has_what_the_user_wrote_without_the_template(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "hard.jsonl"
    assert f"Written: {out} (2 answers)" in shown(run, iteration=1, out=out)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert rows == [
        {
            "messages": [
                {"role": "user", "content": "Be brief.\n\nWhat is 6·7?\n"},
                {"role": "assistant", "content": answer},
            ],
            "prompt_id": "hard",
            "success_rate": 0.5,
            "step": 3,
            "version": 3,
        }
        for answer in ("42", "é 42")
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hard.jsonl", "run"]


def test_the_parquet_file_has_tokens_and_text_and_can_be_trained_on(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "hard.parquet"
    shown(run, out=out)
    rows = pq.read_table(out).to_pylist()
    assert [(row["response_text"], row["step"], row["success_rate"], row["reward"]) for row in rows] == [
        ("42", 12, 0.75, 1.0),
        ("forty-two", 12, 0.75, 1.0),
    ]
    assert rows[0]["prompt_text"] == "Be brief.\n\nWhat is 6·7?\n"
    assert TOKENIZER.decode(rows[0]["response_ids"]) == "42<eos>"
    assert SupervisedDataset(out)[1].response_ids.tolist() == rows[1]["response_ids"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"iteration": 3}, "has no answers of iteration 3; it has 1, 2 (the first is 1)"),
        ({"tau_hard": 0.0}, "--tau-hard is a success rate above 0 and at most 1, got 0"),
        ({"out": Path("x.csv")}, "--out x.csv: ends in .parquet or .jsonl, got '.csv'"),
        ({"out": Path("no/such/x.jsonl")}, "there is no directory no/such"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_sentence(run: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused) as refused:
        shown(run, **options)
    assert sentence in refused.value.problems[0]


def test_the_command_hands_on_what_it_is_asked(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.jsonl"
    options = {"--iteration": "1", "--tau-hard": "1.0", "--max-per-prompt": "1", "--last-steps": "1", "--out": str(out)}
    done = CliRunner().invoke(app, ["experts", str(run), *(word for option in options.items() for word in option)])
    assert done.exit_code == 0
    assert "at most 1, 1 or fewer per problem, from the last 1 steps alone" in done.output
    assert [json.loads(line)["prompt_id"] for line in out.read_text().splitlines()] == ["hard"]
    assert CliRunner().invoke(app, ["experts", str(run), "--iteration", "0"]).exit_code == Exit.REFUSED


def test_the_runs_own_files_are_not_written_over(run: Path) -> None:
    with pytest.raises(Refused, match="whose files a resume relies on"):
        shown(run, out=run / "experts" / "iteration-0.parquet")


def test_a_run_that_has_answered_nothing_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path, [])
    with pytest.raises(Refused, match="has no finished answers to training problems yet"):
        shown(run)


def test_the_manifest_of_another_rloop_is_refused_in_a_sentence(run: Path) -> None:
    file = run / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 3}))
    with pytest.raises(Refused, match="has format 3, this RLoop reads"):
        shown(run)


def test_a_lost_tokenizer_is_named(run: Path, tmp_path: Path) -> None:
    (run / "model" / "tokenizer.json").unlink()
    with pytest.raises(Refused, match="does not load") as refused:
        shown(run, out=tmp_path / "x.jsonl")
    assert str(run / "model") in refused.value.problems[0]


def test_a_prompt_that_is_not_a_turn_of_a_user_is_refused_for_chat() -> None:
    asked = _user_text(TOKENIZER)
    with pytest.raises(Refused, match="is not one turn of a user"):
        asked(TOKENIZER.encode("<|user|>hi", add_special_tokens=False))


@given(text=st.text(max_size=30))
def test_what_was_encoded_as_a_prompt_comes_back(text: str) -> None:
    messages = [{"role": "user", "content": text}]
    rendered = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert _user_text(TOKENIZER)(TOKENIZER.encode(rendered, add_special_tokens=False)) == text
