from pathlib import Path

import pytest

from cluster.settings import Refused, load, nearest, run_name
from rollout.config import SetConfig

RECIPE = """
data: {task: countdown}
verifier: {name: countdown}
rollout:
  group_size: 4
  groups_per_step: 6
"""
OF_FILES = ["data.task=file", "model.scratch.tokenizer=bytes", "verifier.name=math"]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def problems(recipe: Path, *overrides: str, environ: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(Refused) as refused:
        load(recipe, overrides, environ)
    return refused.value.problems


def test_the_command_line_wins_over_the_environment_and_the_environment_over_the_recipe(recipe: Path) -> None:
    environ = {"RLOOP_ROLLOUT__GROUP_SIZE": "5", "RLOOP_ROLLOUT__GROUPS_PER_STEP": "7", "RLOOP_HOME": "ignored"}
    config = load(recipe, ["rollout.group_size=6"], environ)
    assert config.rollout.group_size == 6
    assert config.rollout.groups_per_step == 7
    assert config.data.task == "countdown"


def test_an_overlay_is_laid_over_the_recipe(recipe: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "more.yaml"
    overlay.write_text("rollout: {group_size: 12}\nschedule:\n")
    config = load(recipe, [str(overlay)])
    assert (config.rollout.group_size, config.rollout.groups_per_step) == (12, 6)


def test_values_on_the_command_line_are_yaml(recipe: Path) -> None:
    config = load(
        recipe, ["eval.ks=[1, 4]", "trainer.rl.optim.lr=1e-6", "eval.limit=null", "rollout.engine.eager=false"]
    )
    assert config.eval.ks == (1, 4)
    assert config.trainer.rl.optim.lr == 1e-6
    assert config.eval.limit is None
    assert config.rollout.engine.eager is False


def test_a_run_is_called_after_its_recipe_unless_it_is_named(recipe: Path) -> None:
    assert load(recipe).run_dir == Path("runs/tiny")
    assert load(recipe, ["cluster.name=other"]).run_dir == Path("runs/other")
    assert run_name(Path("a b+c.yaml")) == "a-b-c"


def test_relative_inputs_are_named_from_the_current_directory(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    config = load(recipe, ["data.path=train.jsonl", "model.path=~/models/m"])
    assert config.data.path == recipe.parent / "train.jsonl"
    assert config.model.path == Path.home() / "models/m"


def test_paths_inside_sets_are_named_from_the_current_directory_and_names_of_the_hub_stay(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    sources = "data.sources=[{path: a.jsonl, weight: 3}, {path: 'hf:openai/gsm8k', weight: 1, subset: main}]"
    held_out = ["data.eval_path={path: set, split: test}", "data.eval_sets={x: {path: x.jsonl}}"]
    config = load(recipe, [*OF_FILES, sources, *held_out])
    assert [str(source.path) for source in config.data.sources] == [str(recipe.parent / "a.jsonl"), "hf:openai/gsm8k"]
    assert config.data.eval_path == SetConfig(path=recipe.parent / "set", split="test")
    assert config.data.eval_sets == {"x": SetConfig(path=recipe.parent / "x.jsonl")}
    assert str(load(recipe, ["data.path=hf:openai/gsm8k@abc"]).data.path) == "hf:openai/gsm8k@abc"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("data.sources=[{path: a, weigth: 3}]", "data.sources[0].weigth is no such key; see docs/data.md"),
        ("data.sources=[{weight: 3}]", "data.sources[0].path must be there, got {'weight': 3}"),
        ("data.sources=[a.jsonl]", "data.sources[0] must be a mapping with a path, {path: FILE}, got 'a.jsonl'"),
        ("data.sources=[{path: a, weight: -3}]", "data.sources[0].weight must be more than 0.0, got -3"),
        ("data.sources=a.jsonl", "data.sources must be a list, got 'a.jsonl'"),
        ("data.eval_path={path: x, spilt: t}", "data.eval_path.spilt is no such key; see docs/data.md"),
        ("data.eval_sets={a: {path: x, spilt: t}}", "data.eval_sets.a.spilt is no such key; see docs/data.md"),
        ("data.eval_sets={a: 3}", "data.eval_sets.a must be a mapping with a path, {path: FILE}, got 3"),
    ],
)
def test_what_is_wrong_inside_a_set_is_named_with_its_place(recipe: Path, override: str, sentence: str) -> None:
    (problem,) = problems(recipe, override)
    assert problem.startswith(f"command line: {sentence}")


def test_further_held_out_sets_come_from_a_recipe_or_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own.yaml"
    path.write_text("data: {path: a.jsonl, eval_sets: {x: x.jsonl}}\nmodel: {scratch: {tokenizer: bytes}}\n")
    assert load(path).data.eval_sets == {"x": tmp_path / "x.jsonl"}
    over = load(path, ["data.eval_sets={y: y.jsonl, z: /z.jsonl}"])
    assert over.data.eval_sets == {"y": tmp_path / "y.jsonl", "z": Path("/z.jsonl")}
    assert problems(path, "data.eval_sets=x.jsonl") == (
        "command line: data.eval_sets must be names with values, {name: value}, got 'x.jsonl'; default: {}",
    )
    assert problems(path, "data.eval_sets.y=y.jsonl") == (
        "command line: data.eval_sets.y: no such key; did you mean data.eval_sets?",
    )


def test_an_unknown_key_is_refused_with_the_nearest_that_exists(recipe: Path) -> None:
    assert problems(recipe, "rollout.group_sise=4") == (
        "command line: rollout.group_sise: no such key; did you mean rollout.group_size?",
    )
    assert nearest("trainer.clip_low") == "trainer.rl.clip_low"
    assert nearest("schedule.iteration") == "schedule.iterations"
    assert nearest("zzz") is None


def test_an_unknown_variable_of_ours_is_refused_and_not_ignored(recipe: Path) -> None:
    (problem,) = problems(recipe, environ={"RLOOP_ROLOUT__GROUP_SIZE": "3"})
    assert problem.startswith("RLOOP_ROLOUT__GROUP_SIZE: rolout.group_size: no such key")


def test_all_problems_are_listed_together_with_origin_rule_value_and_default(recipe: Path) -> None:
    assert problems(recipe, "rollout.group_size=1", "trainer.ranks=two", "trainer.compute_dtype=fp8", "foo.bar=1") == (
        "command line: foo.bar: no such key; `rloop config fields` lists all keys",
        "command line: rollout.group_size must be at least 2, got 1; default: 8",
        "command line: trainer.ranks must be a whole number, got 'two'; default: 1",
        "command line: trainer.compute_dtype must be one of 'float32' or 'bfloat16', got 'fp8'; default: bfloat16",
    )


def test_a_section_given_a_value_is_refused(recipe: Path) -> None:
    assert problems(recipe, "rollout.engine=3") == (
        "command line: rollout.engine is a section; set its keys, e.g. rollout.engine.dtype",
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1", "{path}:2: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        (
            "rollout: {group_size: 4}\nrollout: {group_size: 5}",
            "{path}:2: not valid YAML: key 'rollout' is written twice",
        ),
        ("- 1", "{path}: must hold sections (model:, data:, rollout: …), got list"),
    ],
)
def test_a_recipe_that_is_no_recipe_is_refused_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text + "\n")
    assert sentence.format(path=path) in problems(path)


def test_a_missing_or_binary_recipe_is_refused(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in problems(tmp_path / "none.yaml")[0]
    (tmp_path / "latin.yaml").write_bytes(b"data: {instruction: caf\xe9}")
    assert "not UTF-8 (byte 23)" in problems(tmp_path / "latin.yaml")[0]


def test_an_argument_that_is_no_override_is_refused(recipe: Path) -> None:
    assert problems(recipe, "group_size") == (
        "command line: 'group_size' is not an override; write section.key=value or name a .yaml overlay",
    )


def test_the_digest_sees_what_is_computed_and_not_where(recipe: Path) -> None:
    digest = load(recipe).digest()
    assert load(recipe, ["rollout.temperature=0.9"]).digest() != digest
    assert load(recipe, ["cluster.seed=1"]).digest() != digest
    assert load(recipe, ["cluster.name=x", "actors.rollout_workers=3", "schedule.iterations=9"]).digest() == digest
