from pathlib import Path

from cluster.config import RunConfig, flatten, unflatten, walk
from cluster.fields import all_fields, as_table, as_yaml
from cluster.settings import load

GOLDEN = Path(__file__).parents[2] / "golden" / "config_fields.txt"


def test_the_list_of_fields_is_as_agreed() -> None:
    """A new field needs a reason; when it has one: `rloop config fields > tests/golden/config_fields.txt`."""
    assert as_table() + "\n" == GOLDEN.read_text(encoding="utf-8")


def test_every_field_and_section_says_what_it_is() -> None:
    assert [key for key, field, _ in walk() if not (field.description or "").strip()] == []
    assert all(len(field.help) <= 110 for field in all_fields())


def test_a_shown_run_loads_again_as_the_same_run(tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "data": {"task": "countdown", "instruction": "Say: 'x' # not a comment\nEnd"},
            "verifier": {"name": "countdown"},
            "trainer": {"rl": {"optim": {"lr": 3e-7}}},
            "eval": {"ks": (1, 2)},
        }
    )
    assert shown_and_loaded(config, tmp_path) == config


def test_a_field_that_is_a_mapping_is_shown_and_loaded_as_one_value(tmp_path: Path) -> None:
    sets = {"aime 24": "/data/aime: 24.jsonl", "hard": {"path": "/data/hard", "split": "test", "verifier": "exact"}}
    data = {"path": "/data/train.jsonl", "eval_path": {"path": "/data/test"}, "eval_sets": sets}
    config = RunConfig.model_validate({"data": data, "model": {"scratch": {"tokenizer": "bytes"}}})
    assert config.flat()["data.eval_sets"] == sets
    assert shown_and_loaded(config, tmp_path) == config
    mixture = [{"path": "/data/a.jsonl", "weight": 3.0, "verifier": "math"}, {"path": "hf:o/n", "weight": 1.0}]
    mixed = RunConfig.model_validate(
        {"data": {"sources": mixture, "extra_keys": ["a"]}, "model": {"scratch": {"tokenizer": "bytes"}}}
    )
    assert mixed.flat()["data.sources"] == mixture
    assert shown_and_loaded(mixed, tmp_path) == mixed


def shown_and_loaded(config: RunConfig, tmp_path: Path) -> RunConfig:
    path = tmp_path / "shown.yaml"
    path.write_text(as_yaml(config), encoding="utf-8")
    return load(path, ["cluster.name=run"])


def test_bounds_and_types_are_shown() -> None:
    by_key = {field.key: field for field in all_fields()}
    assert by_key["rollout.max_staleness"].bound == ">= 0, <= 64"
    assert by_key["trainer.compute_dtype"].bound == "float32 | bfloat16"
    assert by_key["eval.ks"].type == "list of int"
    assert by_key["model.path"].type == "path or null"
    assert by_key["data.eval_sets"].type == "path by name"
    assert by_key["data.eval_path"].type == "path or null"
    assert by_key["data.extra_keys"].type == "list or null"
    assert by_key["data.sources"].type == "list of sets"


def test_flatten_and_unflatten_are_inverse() -> None:
    tree = {"a": {"b": 1, "c": {"d": [2]}}, "e": None}
    assert flatten(tree) == {"a.b": 1, "a.c.d": [2], "e": None}
    assert unflatten(flatten(tree)) == tree
