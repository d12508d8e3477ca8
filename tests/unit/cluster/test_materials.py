from collections import Counter
from pathlib import Path

import numpy as np

from cluster.config import RunConfig
from cluster.materials import base_cache, load_problems, prepare, probe_sequences
from cluster.settings import load
from rollout.datasets import SupervisedDataset
from trainer.scratch_tokenizer import make_tokenizer

ROOT = Path(__file__).parents[3]


def demo(*overrides: str) -> RunConfig:
    return load(ROOT / "recipes" / "demo.yaml", ["schedule.warmup_demos=200", *overrides])


def test_training_and_held_out_problems_have_nothing_in_common_and_the_held_out_ones_do_not_depend_on_the_seed():
    tokenizer = make_tokenizer("countdown", 80)
    train, held_out = load_problems(demo(), tokenizer)
    assert (len(train), len(held_out)) == (200, 80)
    assert not {p.reference for p in train} & {p.reference for p in held_out}
    other_train, other_held_out = load_problems(demo("cluster.seed=5"), tokenizer)
    assert [p.id for p in held_out] == [p.id for p in other_held_out]
    assert {p.id for p in train} != {p.id for p in other_train}


def test_the_base_policy_is_cached_under_everything_that_shapes_it():
    base = base_cache(demo())
    assert base_cache(demo("trainer.rl.optim.lr=0.1", "rollout.group_size=4")) == base
    for change in (
        "cluster.seed=1",
        "model.scratch.num_layers=2",
        "trainer.warmup.optim.lr=0.1",
        "data.countdown.eval_problems=40",  # demonstrations leave held-out problems out
        "data.countdown.harder_problems=40",
        "data.countdown.other_form_demos=0.1",
    ):
        assert base_cache(demo(change)) != base


def test_settings_may_be_chosen_on_one_split_and_told_on_the_other_with_the_same_base_policy():
    base, validation = demo(), demo("data.countdown.split=validation")
    assert base_cache(validation) == base_cache(base)
    tokenizer = make_tokenizer("countdown", 80)
    (train, test), (same, others) = load_problems(base, tokenizer), load_problems(validation, tokenizer)
    assert train == same
    assert not {p.reference for p in test} & {p.reference for p in others}


def test_the_held_out_sets_take_turns_so_that_a_limit_takes_some_of_each():
    _, held_out = load_problems(demo("data.countdown.harder_problems=10"), make_tokenizer("countdown", 80))
    assert Counter(p.tag for p in held_out) == {"3 numbers": 40, "4 numbers": 40, "harder": 10}
    assert Counter(p.tag for p in held_out[:12]) == {"3 numbers": 4, "4 numbers": 4, "harder": 4}
    assert Counter(p.tag for p in held_out[:40]) == {"3 numbers": 15, "4 numbers": 15, "harder": 10}


def test_a_resumed_run_finds_what_it_started_with(tmp_path):
    config = demo(f"cluster.runs_dir={tmp_path}")
    config.run_dir.mkdir()
    first = prepare(config, config.run_dir)
    assert len(SupervisedDataset(config.run_dir / first.recipe.warmup_dataset)) == 200
    base_cache(config).mkdir(parents=True)  # a warm-up has finished in the meantime
    assert prepare(config, config.run_dir).recipe == first.recipe


def test_the_probe_is_the_same_in_every_run_and_fits_the_context():
    some, others = probe_sequences(21, 80), probe_sequences(21, 80)
    assert all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))
    assert {len(s) for s in some} == {48}
    assert {len(s) for s in probe_sequences(21, 16)} == {15}
    assert max(int(s.max()) for s in some) <= 20
