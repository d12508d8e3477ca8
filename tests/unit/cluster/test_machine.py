from dataclasses import replace
from typing import Any

from cluster.config import RunConfig, unflatten
from cluster.machine import GIB, MIB, Machine, need, shortages
from cluster.model_files import ModelFacts
from trainer.memory import Shape

MODEL = ModelFacts(
    "Test",
    Shape(1_000_000_000, 28, 2048, 151_936),
    kv_values_per_token=2 * 28 * 8 * 128,
    max_positions=4096,
    head_dim=128,
)
BIG = Machine(memory=1 << 40, shared_memory=1 << 40, cores=8, has_gpu=False)


def config(**changes: Any) -> RunConfig:
    flat = {"data.task": "countdown", "verifier.name": "countdown", "rollout.engine.kv_cache_mb": 1024}
    return RunConfig.model_validate(unflatten(flat | {k.replace("__", "."): v for k, v in changes.items()}))


def test_the_learner_takes_its_shards_a_copy_and_what_each_rank_gathers_and_each_engine_a_copy() -> None:
    wanted = need(config(actors__rollout_workers=2), MODEL, has_gpu=False)
    assert wanted.learner == (12 + 12 + 8) * 1_000_000_000  # on one rank
    assert need(config(trainer__ranks=2), MODEL, False).learner == (12 + 12 + 2 * 8) * 1_000_000_000
    assert need(config(trainer__rl__kl__weight=0.1), MODEL, False).learner == (12 + 12 + 4 + 8) * 1_000_000_000
    assert need(config(trainer__lora__rank=8), MODEL, False).learner == (4 + 4) * 1_000_000_000
    assert wanted.engines == 2 * (4_000_000_000 + 1024 * MIB)
    assert wanted.weight_slots == 8_000_000_000
    assert wanted.object_store == 256 * MIB
    half = need(config(rollout__engine__dtype="bfloat16"), MODEL, has_gpu=False)
    assert half.weight_slots == 4_000_000_000
    assert need(config(), MODEL, has_gpu=True).learner == 12 * 1_000_000_000  # the copy that is being written


def test_an_evaluation_needs_its_engines_and_no_learner() -> None:
    wanted = need(config(trainer__ranks=4), MODEL, has_gpu=False, trained=False)
    assert (wanted.learner, wanted.weight_slots, wanted.engines) == (0, 0, 4_000_000_000 + 1024 * MIB)
    assert wanted.processes < need(config(trainer__ranks=4), MODEL, has_gpu=False).processes - 3 * GIB
    enough = Machine(8 * GIB, 1 << 40, 8, False)
    assert shortages(config(), MODEL, enough, trained=False) == [] != shortages(config(), MODEL, enough)


def test_a_machine_that_is_large_enough_lacks_nothing() -> None:
    assert shortages(config(), MODEL, BIG) == []


def test_too_little_memory_is_refused_with_its_parts() -> None:
    (sentence,) = shortages(config(), MODEL, Machine(8 * GIB, 1 << 40, 8, False))
    assert "8.0 GiB is free (learner 29.8, engines 4.7, weights in transfer 7.5" in sentence


def test_too_little_shared_memory_is_refused() -> None:
    (sentence,) = shortages(config(), MODEL, Machine(1 << 40, 64 * MIB, 8, False))
    assert "object store of 256 MiB, 64 MiB is free" in sentence
    assert shortages(config(cluster__ray_address="auto"), MODEL, Machine(1 << 40, 64 * MIB, 8, False)) == []


def test_a_kv_cache_that_cannot_hold_one_sequence_is_refused_because_no_answer_would_ever_end() -> None:
    assert shortages(config(rollout__context_length=4096), MODEL, BIG) == []
    (sentence,) = shortages(config(rollout__context_length=4096, rollout__engine__kv_cache_mb=512), MODEL, BIG)
    assert "rollout.context_length=4096, which takes 896 MiB, got 512" in sentence


def test_a_context_beyond_the_models_positions_is_refused() -> None:
    (sentence,) = shortages(config(rollout__context_length=4097), MODEL, BIG)
    assert "got 4097 and 4096; use 4096 or less" in sentence


def test_this_machine_has_memory_and_cores() -> None:
    here = Machine.here()
    assert here.memory > 0
    assert here.cores >= 1


def test_heads_that_the_cpu_engine_would_die_of_are_refused_without_a_gpu_and_fine_with_one() -> None:
    narrow = replace(MODEL, head_dim=16)
    (sentence,) = shortages(config(), narrow, BIG)
    assert "Test has 16" in sentence
    assert shortages(config(), narrow, replace(BIG, has_gpu=True)) == []
