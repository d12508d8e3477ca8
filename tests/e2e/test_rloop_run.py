"""A small whole run, and what its numbers must say. Then the same run, killed half way and resumed."""

import os
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import ROOT, FinishedRun, command, rloop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SMALL = [
    "recipes/demo.yaml",
    "schedule.warmup_demos=32000",
    "schedule.rl_steps=10",
    "data.countdown.eval_problems=40",
    "eval.samples=16",
    "eval.ks=[1,8,16]",
    "trainer.rl.optim.lr=1.0e-3",
]


@pytest.fixture(scope="module")
def run(runs) -> FinishedRun:
    rloop("train", *SMALL, f"cluster.runs_dir={runs}", "--name", "small")
    return FinishedRun(runs / "small")


def test_rft_was_initialised_from_the_policy_that_rl_started_from(run):
    weights, started_from = run.manifest["weights"], run.manifest["started_from"]
    for i in (0, 1):
        assert started_from[f"rl-{i}"] == started_from[f"theta-{i + 1}"] == weights[f"theta-{i}"]
        assert weights[f"theta-{i}"] != weights[f"rl-{i}"] != weights[f"theta-{i + 1}"]


def test_the_expert_set_holds_distinct_successes_of_more_than_one_step(run):
    for iteration in (0, 1):
        experts = run.experts(iteration)
        assert len(set(experts["step"])) > 3
        assert set(experts["reward"]) == {1.0}
        answers = list(zip(experts["prompt_id"], map(tuple, experts["response_ids"]), strict=True))
        assert len(answers) == len(set(answers))
        assert max(np.unique(experts["prompt_id"], return_counts=True)[1]) <= 16


def test_every_sync_was_attested_against_the_learner(run):
    steps = run.steps("rl")
    assert len(steps) == 20
    assert all(0 <= step["probe_max_diff"] < 1e-3 for step in steps)


def test_engine_and_learner_agree_on_fresh_tokens(run):
    fresh = [step["mismatch_kl"] for step in run.steps("rl") if step["staleness_max"] == 0]
    assert fresh
    assert max(fresh) < 1e-4


def test_versions_only_grow_and_no_trained_token_is_older_than_the_bound(run):
    versions = [step["version"] for step in run.steps("rl")]
    assert versions == sorted(set(versions))
    assert max(step["staleness_max"] for step in run.steps("rl")) <= 1


def test_held_out_accuracy_is_clearly_above_the_base_policy(run):
    base, final = run.evaluation("theta-0"), run.evaluation("theta-2")
    print({"base": base["pass@1"], "final": final["pass@1"]})
    assert final["pass@1"] > 1.2 * base["pass@1"]


def test_the_final_checkpoint_loads_in_transformers_and_in_vllm(run):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = run.root / "checkpoints" / "theta-2" / "hf"
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    prompt = torch.tensor([tokenizer.encode("3,7,2>12:")])
    answer = tokenizer.decode(model.generate(prompt, max_new_tokens=24, do_sample=False)[0, prompt.shape[1] :])
    assert answer.count("=") >= 1
    printed = rloop("eval", str(directory), *SMALL, f"cluster.runs_dir={run.root.parent}")
    final = run.evaluation("theta-2")["pass@1"]
    assert "pass@1" in printed
    assert final > 0


def test_a_run_that_is_killed_is_finished_by_resume(run, runs):
    arguments = [*SMALL, "schedule.iterations=1", "actors.checkpoint_every_s=2", f"cluster.runs_dir={runs}"]
    killed = FinishedRun(runs / "killed")
    process = subprocess.Popen(
        command("train", *arguments, "--name", "killed"), cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not (killed.root / "manifest.json").exists() or killed.manifest["step"] < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    step = killed.manifest["step"]
    time.sleep(3)  # the watchdog clears away what the driver left
    rloop("resume", str(killed.root))
    assert killed.manifest["phase"] is None
    assert [row["weights"] for row in killed.manifest["evals"]] == ["theta-0", "rl-0", "theta-1"]
    steps = [row["step"] for row in killed.steps("rl")]
    assert steps[-(10 - step) :] == list(range(step + 1, 11))  # it went on where the manifest stood
    assert killed.manifest["started_from"]["theta-1"] == killed.manifest["weights"]["theta-0"]
