from pathlib import Path

import pytest

from cluster.rules import advice, broken_rules
from cluster.settings import load

RECIPES = Path(__file__).parents[3] / "recipes"


def test_the_demo_loads_as_it_is_without_advice() -> None:
    assert advice(load(RECIPES / "demo.yaml")) == []


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
