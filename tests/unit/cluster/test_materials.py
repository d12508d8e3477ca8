import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cluster.config import RunConfig
from cluster.materials import base_cache, load_data, prepare, probe_sequences
from cluster.settings import load
from rollout.data_errors import DataError
from rollout.datasets import SupervisedDataset
from trainer.scratch_tokenizer import make_tokenizer

ROOT = Path(__file__).parents[3]


def demo(*overrides: str) -> RunConfig:
    return load(ROOT / "recipes" / "demo.yaml", ["schedule.warmup_demos=200", *overrides])


def test_training_and_held_out_problems_have_nothing_in_common_and_the_held_out_ones_do_not_depend_on_the_seed():
    tokenizer = make_tokenizer("countdown", 80)
    data = load_data(demo(), tokenizer)
    train, held_out = data.train, data.held_out
    assert (len(train), len(held_out)) == (200, 80)
    assert not {p.reference for p in train} & {p.reference for p in held_out}
    other = load_data(demo("cluster.seed=5"), tokenizer)
    assert [p.id for p in held_out] == [p.id for p in other.held_out]
    assert {p.id for p in train} != {p.id for p in other.train}


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
    data, other = load_data(base, tokenizer), load_data(validation, tokenizer)
    assert data.train == other.train
    assert not {p.reference for p in data.held_out} & {p.reference for p in other.held_out}


def test_the_held_out_sets_take_turns_so_that_a_limit_takes_some_of_each():
    held_out = load_data(demo("data.countdown.harder_problems=10"), make_tokenizer("countdown", 80)).held_out
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


def own(tmp_path: Path, *overrides: str) -> RunConfig:
    """A recipe for two files, of 12 and of 4 problems."""
    for name, count in (("a", 12), ("b", 4)):
        rows = [{"question": f"{name} {i}?", "answer": str(i)} for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "t.jsonl").write_text('{"question": "t?", "answer": "1"}\n')
    sources = f"data.sources=[{{path: {tmp_path}/a.jsonl, weight: 1}}, {{path: {tmp_path}/b.jsonl, weight: 3}}]"
    paths = [sources, f"data.eval_path={tmp_path}/t.jsonl", f"cluster.runs_dir={tmp_path}"]
    return load(ROOT / "recipes" / "gsm8k.yaml", [*paths, *overrides])


def test_a_mixture_is_shares_of_the_prompts_by_source(tmp_path: Path) -> None:
    data = load_data(own(tmp_path), make_tokenizer("bytes", 1536))
    assert [(len(share.prompt_ids), share.weight) for share in data.mixture] == [(12, 1.0), (4, 3.0)]
    assert [prompt_id for share in data.mixture for prompt_id in share.prompt_ids] == [p.id for p in data.train]


def test_without_weights_each_source_counts_by_its_number_of_problems(tmp_path: Path) -> None:
    sources = f"data.sources=[{{path: {tmp_path}/a.jsonl}}, {{path: {tmp_path}/b.jsonl}}]"
    data = load_data(own(tmp_path, sources), make_tokenizer("bytes", 1536))
    assert [share.weight for share in data.mixture] == [12, 4]


def test_rows_that_were_skipped_are_listed_in_the_run_directory(tmp_path: Path) -> None:
    config = own(tmp_path, "data.on_bad_row=skip")
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"question": "no answer"}\n' + json.dumps({"question": "x" * 9_000, "answer": "1"}) + "\n")
    config.run_dir.mkdir()
    materials = prepare(config, config.run_dir)
    assert len(materials.train) == 16
    no_answer, too_long = (config.run_dir / "skipped_rows.txt").read_text().splitlines()
    assert f"{tmp_path}/a.jsonl:13: no 'answer'" in no_answer
    assert "a.jsonl:14 (id 'a/14'): the prompt has" in too_long


def test_a_source_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    config = own(tmp_path, "data.on_bad_row=skip", "rollout.context_length=300")
    (tmp_path / "b.jsonl").write_text(json.dumps({"question": "x" * 9_000, "answer": "1"}) + "\n")
    with pytest.raises(DataError, match=r"b: every row is skipped; the first: b.jsonl:1"):
        load_data(config, make_tokenizer("bytes", 300))
