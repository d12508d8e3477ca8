"""A user's own question/answer file with a Hugging Face model directory and the math verifier, every part once."""

import json

import pytest
from whole_run import ROOT, FinishedRun, rloop

from trainer.config import ScratchConfig
from trainer.scratch import make_model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

GSM8K = ROOT.parent / "shared" / "data" / "gsm8k" / "train.jsonl"
SMALL = [
    "schedule.iterations=1",
    "schedule.rl_steps=2",
    "rollout.groups_per_step=4",
    "rollout.group_size=4",
    "rollout.max_new_tokens=48",
    "data.limit=24",
    "eval.limit=4",
    "eval.samples=4",
    "eval.ks=[1,4]",
]


@pytest.fixture(scope="module")
def run(runs) -> FinishedRun:
    data = GSM8K if GSM8K.exists() else ROOT / "tests" / "data" / "grade_school.jsonl"
    scratch = ScratchConfig(
        tokenizer="bytes", hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=32, intermediate_size=128
    )
    model = make_model(scratch, runs / "hf-model", context_length=1536, seed=3)
    rloop(
        "train",
        "recipes/gsm8k.yaml",
        f"data.path={data}",
        f"model.path={model}",
        *SMALL,
        f"cluster.runs_dir={runs}",
        "--name",
        "own",
    )
    return FinishedRun(runs / "own")


def test_a_model_that_solves_nothing_goes_through_every_phase_and_rft_is_skipped_in_words(run):
    assert [row["weights"] for row in run.manifest["evals"]] == ["theta-0", "rl-0", "theta-1"]
    assert [row["step"] for row in run.steps("rl")] == [1, 2]
    assert run.manifest["weights"]["theta-1"] == run.manifest["weights"]["theta-0"]
    said = "RFT skipped: 0 expert answers, and schedule.min_experts is 8; theta-0 is kept"
    assert said in (run.root / "logs" / "controller.log").read_text()


def test_long_answers_are_cut_at_the_limit_and_counted(run):
    steps = run.steps("rl")
    assert all(step["response_len_max"] <= 48 for step in steps)
    assert any(step["truncated_frac"] > 0 for step in steps)


def test_every_answer_has_a_verdict_of_the_math_verifier_and_none_is_a_fault(run):
    from rollout.segments import read_segment, segments
    from rollout.storage import LocalDisk

    journal = LocalDisk(run.root / "journal")
    rows = [
        row
        for segment in segments(journal)
        for _, batch in read_segment(journal, segment)
        for row in batch.select(["verifier", "verdict_status", "prompt_ids"]).to_pylist()
    ]
    evaluations = {row["number"] for row in run.manifest["evals"]}  # one for weights that the engines have already
    assert len(rows) >= 2 * 4 * 4 + len(evaluations) * 2 * 4  # two steps, and evaluations
    assert {row["verifier"] for row in rows} == {"math"}
    assert {row["verdict_status"] for row in rows} <= {"correct", "wrong"}
    assert max(len(row["prompt_ids"]) for row in rows) > 150  # real text under a chat template


def test_a_bad_row_is_refused_by_file_row_and_remedy_and_leaves_nothing_behind(runs, tmp_path):
    data = tmp_path / "broken.jsonl"
    data.write_text(json.dumps({"question": "1+1?", "answer": "2"}) + "\n" + json.dumps({"question": "2+2?"}) + "\n")
    printed = rloop(
        "train", "recipes/gsm8k.yaml", f"data.path={data}", f"cluster.runs_dir={tmp_path / 'runs'}", expect=2
    )
    assert f"{data}:2: no 'answer'" in printed
    assert not (tmp_path / "runs").exists()
