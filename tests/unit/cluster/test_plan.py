"""What `rloop plan` says, and the figures behind it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.config import RunConfig
from cluster.exits import Exit
from cluster.plan import engine_bytes, learner_memory
from cluster.settings import Refused
from trainer.memory import GIB, Shape

ROOT = Path(__file__).parents[3]
QWEN_7B = Shape(7_615_616_512, 28, 3584, 152_064)
CLUSTER = """
head_node_type: head
max_workers: 2
available_node_types:
  head: {resources: {CPU: 8}}
  gpu: {resources: {CPU: 96, GPU: 8}, max_workers: 2}
"""


def config(**trainer) -> RunConfig:
    return RunConfig.model_validate({"trainer": {"ranks": 8, "micro_batch_tokens": 8192, **trainer}})


@pytest.fixture
def plan(tmp_path: Path):
    file = tmp_path / "cluster.yaml"
    file.write_text(CLUSTER)

    def run(*arguments: str):
        recipe = [str(ROOT / "recipes" / "gsm8k.yaml"), str(ROOT / "recipes" / "gpu.yaml"), "data.path=train.jsonl"]
        return CliRunner().invoke(app, ["plan", *recipe, "--cluster", str(file), *arguments])

    return run


def test_a_learner_rank_of_7b_takes_what_the_table_in_the_docs_says():
    assert learner_memory(config(), QWEN_7B).total / GIB == pytest.approx(50.0, abs=0.05)
    assert learner_memory(config(activation_checkpointing=True), QWEN_7B).total / GIB == pytest.approx(26.4, abs=0.05)
    eight_bit = {"activation_checkpointing": True, "rl": {"optim": {"name": "adamw_8bit"}}}
    assert learner_memory(config(**eight_bit), QWEN_7B).total / GIB == pytest.approx(21.1, abs=0.05)


def test_adapters_leave_a_rank_the_frozen_weights_and_little_more():
    shards = learner_memory(config(lora={"rank": 16}), QWEN_7B).shards
    frozen = 2 * QWEN_7B.parameters / 8
    assert frozen < shards < 1.1 * frozen


def test_an_engine_shares_its_weights_out_over_its_gpus():
    run = RunConfig.model_validate({"rollout": {"engine": {"dtype": "bfloat16", "tensor_parallel": 4}}})
    model = type("Facts", (), {"parameters": 8_000_000_000})
    assert engine_bytes(run, model) == (4_000_000_000, 256 << 20)


def test_a_cluster_file_is_filled_and_nothing_is_started(plan):
    said = plan("trainer.ranks=8", "actors.rollout_workers=4", "rollout.engine.tensor_parallel=2")
    assert said.exit_code == Exit.DONE, said.output
    rows = [line.split() for line in said.output.splitlines()]
    assert ["gpu-0", "4", "1", "8", "of", "8", "5", "of", "96"] in rows
    assert ["gpu-1", "8", "8", "of", "8", "8", "of", "96"] in rows
    assert "Everybody finds room" in said.output


def test_pairs_have_a_column_of_their_own_and_must_fit_on_their_gpu_together(plan):
    pairs = ["cluster.layout=colocated", "trainer.ranks=8", "actors.rollout_workers=8"]
    said = plan(*pairs, "rollout.engine.kv_cache_mb=512", "--gpu-gib", "9")
    assert said.exit_code == Exit.DONE, said.output
    rows = [line.split() for line in said.output.splitlines()]
    assert ["node", "colocated", "pairs", "verifier", "pools", "GPUs", "CPUs"] in rows
    assert ["gpu-0", "8", "1", "8", "of", "8", "17", "of", "96"] in rows
    said = plan(*pairs, "rollout.engine.kv_cache_mb=512", "actors.weight_transport=ipc")
    assert "weights for the engine 0.0" in said.output  # two versions of a small model
    said = plan(*pairs, "rollout.engine.kv_cache_mb=8000", "--gpu-gib", "9")
    assert "a pair takes about" in str(said.exception.problems)


def test_what_does_not_fit_is_refused_after_the_table(plan):
    said = plan("trainer.ranks=16", "actors.rollout_workers=1")
    assert isinstance(said.exception, Refused)
    assert "no room for 1 rollout worker" in str(said.exception.problems)
    assert "learner rank" in said.output
    said = plan("--gpu-gib", "1.2")
    assert "a learner rank takes about" in str(said.exception.problems)
