"""A small whole run, and what its numbers must say. Then shorter ones, hurt half way."""

import signal
import subprocess
import time

import numpy as np
import psutil
import pytest
from whole_run import ROOT, FinishedRun, command, rloop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

SMALL = [
    "recipes/demo.yaml",
    "schedule.rl_steps=30",  # with 10 or 14 the gain over the base policy is a sixth, give or take as much
    "rollout.max_staleness=0",  # with these two it does not depend on timing, and ends alike every time
    "rollout.drop_zero_variance=false",
    "eval.samples=16",
    "eval.ks=[1,8]",
    "cluster.sinks=[tensorboard]",
]  # the demo's own base policy: a weaker one learns only by luck
STEPS = 40
QUICK = ["recipes/smoke.yaml", f"schedule.rl_steps={STEPS}", "actors.checkpoint_every_s=1"]


@pytest.fixture(scope="module")
def run(runs) -> FinishedRun:
    rloop("train", *SMALL, f"cluster.runs_dir={runs}", "--name", "small", timeout=1200)  # half of it warm-up
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
    versions = {row["version"]: row["probe_max_diff"] for row in run.steps("sync")}
    assert {step["version"] for step in run.steps("rl")} < set(versions)
    assert len(versions) == 1 + 60 + 2  # the base policy, every step, each RFT
    assert all(0 <= difference < 1e-3 for difference in versions.values())


def test_engine_and_learner_agree_on_fresh_tokens(run):
    fresh = [step["mismatch_kl"] for step in run.steps("rl") if step["staleness_max"] == 0]
    assert fresh
    assert max(fresh) < 1e-4


def test_versions_only_grow_and_on_policy_no_trained_token_is_old(run):
    versions = [step["version"] for step in run.steps("rl")]
    assert versions == sorted(set(versions))
    assert max(step["staleness_max"] for step in run.steps("rl")) == 0


def test_every_answer_has_its_fate_and_nothing_was_trained_twice(run):
    assert "The balance closes" in rloop("audit", str(run.root))


def test_its_numbers_are_in_tensorboard_files_too(run):
    (file,) = (run.root / "tensorboard").iterdir()
    reward = run.steps("rl")[-1]["reward"]
    tag, packed = b"rl/reward", np.float32(reward).tobytes()
    assert tag + b"\x15" + packed in file.read_bytes()  # field 2 of the value, a float, comes after its tag


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


def wait_for_step(process: subprocess.Popen, run: FinishedRun, step: int) -> None:
    deadline = time.monotonic() + 300
    while not (run.root / "manifest.json").exists() or run.manifest["step"] < step:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_run_that_is_interrupted_and_then_killed_is_finished_by_resume(runs):
    """One run, three lives: Ctrl-C, SIGKILL of the driver, the end."""
    stopped = FinishedRun(runs / "stopped")
    first = subprocess.Popen(
        command("train", *QUICK, f"cluster.runs_dir={runs}", "--name", "stopped"), cwd=ROOT, stdout=subprocess.DEVNULL
    )
    wait_for_step(first, stopped, 2)
    first.send_signal(signal.SIGINT)
    assert first.wait(30) == 130  # a checkpoint, and everything closed in order
    at_interrupt = stopped.manifest["step"]
    assert 2 <= at_interrupt < STEPS

    second = subprocess.Popen(command("resume", str(stopped.root)), cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for_step(second, stopped, at_interrupt + 2)
    family = psutil.Process(second.pid).children(recursive=True)
    assert len(family) >= 8  # Ray's own, the actors, the engine, the verifier
    second.kill()
    second.wait(10)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert [process.name() for process in alive] == []

    at_kill = stopped.manifest["step"]
    rloop("resume", str(stopped.root))
    manifest = stopped.manifest
    assert manifest["phase"] is None
    assert [row["weights"] for row in manifest["evals"]] == ["theta-0", "rl-0", "theta-1"]
    assert manifest["started_from"]["theta-1"] == manifest["weights"]["theta-0"]
    last_life = [row["step"] for row in stopped.steps("rl")][-(STEPS - at_kill) :]
    assert last_life == list(range(at_kill + 1, STEPS + 1))  # it went on where the manifest stood
    assert max(row["staleness_max"] for row in stopped.steps("rl")) <= 1
    assert "The balance closes" in rloop("audit", str(stopped.root))
