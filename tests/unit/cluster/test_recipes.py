from collections import Counter
from pathlib import Path

import pytest

from cluster.rules import advice, broken_rules
from cluster.settings import load
from rollout.countdown_sets import held_out_problems

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.mark.parametrize("name", ["demo", "countdown"])
def test_a_recipe_for_the_tiny_model_loads_as_it_is_without_advice(name: str) -> None:
    assert advice(load(RECIPES / f"{name}.yaml")) == []


def test_the_tiny_task_has_sets_in_and_out_of_distribution_of_which_rl_trains_none() -> None:
    task = load(RECIPES / "countdown.yaml").data.countdown
    sets = Counter(problem.tag for problem in held_out_problems(task))
    assert sets == {"3 numbers": 50, "4 numbers": 50, "harder": 100, "other form": 100}
    assert task.other_form_demos > 0


def test_the_recipe_for_files_needs_only_a_path() -> None:
    config = load(RECIPES / "gsm8k.yaml", ["data.path=train.jsonl"])
    assert config.data.path is not None
    assert config.verifier.name == "math"


def test_the_gpu_settings_are_laid_over_a_recipe() -> None:
    overlay = RECIPES / "gpu.yaml"
    config = load(RECIPES / "gsm8k.yaml", [str(overlay), "data.path=x.jsonl"])
    assert config.rollout.engine.kv_cache_mb is None
    assert config.actors.start_timeout_s == 1800


@pytest.mark.parametrize("path", sorted((RECIPES / "algorithms").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_algorithm_is_laid_over_the_demo_without_complaint(path: Path) -> None:
    config = load(RECIPES / "demo.yaml", [str(path)])
    assert broken_rules(config) == advice(config) == []
