from typing import Any

import pytest

from cluster.config import RunConfig, unflatten
from cluster.rules import advice, broken_rules

GOOD: dict[str, Any] = {"data.task": "countdown", "verifier.name": "countdown"}

MIXED: dict[str, Any] = {"data__task": "file", "data__sources": [{"path": "a"}, {"path": "b"}]}


def rules(**changes: Any) -> list[str]:
    flat = GOOD | {key.replace("__", "."): value for key, value in changes.items()}
    return broken_rules(RunConfig.model_validate(unflatten(flat)))


def hints(**changes: Any) -> list[str]:
    flat = GOOD | {key.replace("__", "."): value for key, value in changes.items()}
    return advice(RunConfig.model_validate(unflatten(flat)))


def test_a_countdown_run_with_defaults_breaks_no_rule() -> None:
    assert rules() == []
    assert hints() == []


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"rollout__context_length": 64}, "rollout.context_length must exceed rollout.max_new_tokens, got 64 and 64"),
        ({"trainer__rl__minibatches": 3}, "got 16 and 3; use 15 or 18 groups"),
        ({"trainer__ranks": 3}, "rollout.groups_per_step × rollout.group_size must be divisible by trainer.ranks"),
        ({"trainer__ranks": 4, "trainer__rft__batch_size": 10}, "trainer.rft.batch_size must be divisible"),
        ({"trainer__rl__kl__in_reward": True}, "needs trainer.rl.kl.weight above 0"),
        (
            {"trainer__rl__kl__in_reward": True, "trainer__rl__kl__weight": 0.1},
            "rewards per token (reinforce_pp, gae), got grpo",
        ),
        ({"trainer__rl__dual_clip": 3.0, "trainer__rl__loss": "cispo"}, "dual_clip is for trainer.rl.loss=ppo, got"),
        ({"trainer__rl__importance__floor": 0.5}, "floor is for modes that drop, got 0.5 with mode=tis"),
        ({"trainer__rl__critic__lam": 0.9}, "trainer.rl.critic does nothing without trainer.rl.advantage=gae"),
        ({"trainer__rl__proximal_alpha": 0.3}, "does nothing without trainer.rl.proximal=loglinear or linear"),
        ({"trainer__rl__importance": {"mode": "none", "cap": 5}}, "importance.cap does nothing with mode=none"),
        ({"rollout__deterministic": True, "rollout__engine__kv_on_update": "recompute"}, "kv_on_update=keep"),
        ({"trainer__rl__overlong_tokens": 65}, "must be at most rollout.max_new_tokens, got 65 and 64"),
        ({"trainer__lora__targets": ["q_proj"]}, "trainer.lora.targets needs trainer.lora.rank above 0"),
        ({"eval__ks": [1, 64]}, "between 1 and eval.samples, got 64 and 32"),
        ({"eval__ks": []}, "eval.ks must not be empty"),
        (
            {"cluster__layout": "colocated", "trainer__ranks": 2},
            "needs actors.rollout_workers = trainer.ranks, got 1 and 2",
        ),
        ({"cluster__layout": "colocated", "actors__max_rollout_workers": 2}, "got actors.max_rollout_workers=2"),
        ({"cluster__layout": "colocated", "rollout__engine__tensor_parallel": 2}, "tensor_parallel=1, got 2"),
        ({"cluster__layout": "colocated", "rollout__engine__kv_cache_mb": None}, "kv_cache_mb, got null"),
        ({"cluster__layout": "colocated", "actors__weight_transport": "nccl"}, "NCCL connects different GPUs"),
        ({"actors__weight_transport": "ipc"}, "ipc needs cluster.layout=colocated"),
        ({"model__scratch__num_kv_heads": 3}, "got 4 and 3; use one of 1, 2, 4 key/value heads"),
        ({"verifier__name": "math"}, "must be scored by verifier.name=countdown, got 'math'"),
        ({"data__countdown__train_numbers": [3, 6]}, "must list sizes from 3 to 5, got [3, 6]"),
        ({"data__task": "file", "verifier__name": "math"}, "data.path must be set when data.task=file"),
        ({"data__countdown__train_numbers": [4, 5], "data__countdown__harder_problems": 9}, "got train_numbers=[4, 5]"),
        ({"data__eval_sets": {"a": "x"}}, "data.eval_sets is for data.task=file"),
        ({"data__task": "file", "data__path": "x", "data__eval_sets": {"a/b": "x"}}, "without '/', other than"),
        ({"data__task": "file", "data__path": "x", "data__eval_sets": {"held-out": "x"}}, "got 'held-out'"),
        ({**MIXED, "data__path": "x"}, "data.path is the short form of one source, got x beside data.sources"),
        ({**MIXED, "data__sources": [{"path": "a", "weight": 1}, {"path": "b"}]}, "got none for 'b'; without weights"),
        ({**MIXED, "data__sources": [{"path": "x/a"}, {"path": "y/a"}]}, "names of their own, got 'a' twice; set the"),
        ({**MIXED, "data__eval_sets": {"b": "x"}}, "names of their own, got 'b' twice"),
        ({**MIXED, "data__sources": [{"path": "a", "name": "x/y"}]}, "without '/', other than 'held-out', got 'x/y'"),
        ({"data__task": "file", "data__path": "x"}, "set model.path, or model.scratch.tokenizer=bytes"),
        ({"schedule__warmup_demos": 10, "model__path": "m"}, "schedule.warmup_demos is for models made from scratch"),
    ],
)
def test_a_broken_rule_is_named_with_values_and_way_out(changes: dict[str, Any], part: str) -> None:
    assert any(part in sentence for sentence in rules(**changes)), rules(**changes)


def test_a_minibatch_smaller_than_the_ranks_is_refused() -> None:
    (sentence,) = rules(rollout__groups_per_step=2, rollout__group_size=4, trainer__rl__minibatches=2, trainer__ranks=8)
    assert sentence.startswith("a minibatch must hold a sequence for every rank, got 4 sequences and trainer.ranks=8")


def test_every_broken_rule_is_listed() -> None:
    assert len(rules(trainer__rl__minibatches=3, eval__ks=[64], verifier__name="math")) == 3


def test_few_slots_are_slow_and_not_refused() -> None:
    assert rules(rollout__max_concurrent=1, rollout__max_staleness=0) == []
    (hint,) = hints(rollout__max_concurrent=5)
    assert hint.startswith("5 groups in flight (max_concurrent × workers) are fewer than groups_per_step=16")
    assert hint.endswith("4 waves")


def test_slots_beyond_the_staleness_bound_are_pointed_out() -> None:
    assert "admits 16 at once" in hints(rollout__max_staleness=0)[0]
    assert "256 engine slots" in hints(rollout__group_size=16)[0]
    unread = {"data__countdown__other_form_problems": 9, "schedule__warmup_demos": 100}
    assert "the base policy cannot read it" in hints(**unread)[0]
    assert hints(**unread, data__countdown__other_form_demos=0.1) == []
    assert "reaches beyond a phase of 1 steps" in hints(schedule__rl_steps=1)[0]
