"""What docs/verifiers.md says is so."""

import inspect
import re
from pathlib import Path

import pytest
import yaml

from verifiers.catalogue import BUILT_IN, USER_FUNCTIONS, load
from verifiers.config import VerifierConfig
from verifiers.records import ScoreRequest

PAGE = (Path(__file__).parents[3] / "docs" / "verifiers.md").read_text()


def examples() -> list[tuple[str, str, str, float]]:
    lines = PAGE.partition("## Examples")[2].partition("\n## ")[0].splitlines()
    cells = [re.split(r"\s*\|\s*", line.strip(" |")) for line in lines if line.startswith("| `{")]
    return [(row[0].strip("`"), row[1].strip("`"), row[2].strip("`"), float(row[3])) for row in cells]


@pytest.mark.parametrize(("verifier", "reference", "response", "reward"), examples())
def test_an_example_is_scored_as_it_says(verifier: str, reference: str, response: str, reward: float) -> None:
    config = VerifierConfig.model_validate(yaml.safe_load(verifier))
    found = load(config.name, config.options).score(ScoreRequest("", response, reference))
    assert found.reward == pytest.approx(reward)


def test_there_are_examples() -> None:
    assert len(examples()) == 19


def test_a_recipe_on_the_page_is_one() -> None:
    blocks = [yaml.safe_load(block)["verifier"] for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    configs = [VerifierConfig.model_validate(block) for block in blocks]
    assert [config.name for config in configs] == ["judge", "combine", "trl:my_rewards:accuracy_reward"]
    for config in configs[:2]:
        assert load(config.name, config.options).name == config.name


def test_every_verifier_is_on_the_page_with_its_options() -> None:
    table = {}
    for line in PAGE.splitlines():
        if line.startswith("| `"):
            for name in re.findall(r"`([a-z_]+)(?::…)?`", line.split("|")[1]):
                table[name] = line
    assert set(BUILT_IN) | set(USER_FUNCTIONS) <= set(table)
    for name, path in BUILT_IN.items():
        module, _, kind = path.partition(":")
        options = inspect.signature(getattr(__import__(module, fromlist=[kind]), kind)).parameters
        missing = [option for option in options if f"`{option}`" not in PAGE and f"{option}:" not in PAGE]
        assert missing == [], name
