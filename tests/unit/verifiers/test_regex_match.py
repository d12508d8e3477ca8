import asyncio

import pytest

from verifiers.pool import VerifierProcesses
from verifiers.records import ScoreRequest
from verifiers.regex_match import Regex
from verifiers.spec import VerifierSpec


def verdict(response: str, reference: str, **options):
    return Regex(**options).score(ScoreRequest("", response, reference))


@pytest.mark.parametrize(
    ("response", "reference", "options", "reward"),
    [
        ("on 1789-07-14 it began", r"\b\d{4}-\d\d-\d\d\b", {}, 1.0),
        ("in 1789 it began", r"\b\d{4}-\d\d-\d\d\b", {}, 0.0),
        ("yes", "YES", {}, 0.0),
        ("yes", "YES", {"ignore_case": True}, 1.0),
        ("yes, or no", "yes", {"whole": True}, 0.0),
        (" yes\n", "yes", {"whole": True}, 1.0),
        ("<think>blue</think>red", "blue", {"after": "</think>"}, 0.0),
        ("blue", "blue", {"after": "</think>"}, 0.0),  # it never came to answer
    ],
)
def test_a_reference_is_a_pattern(response: str, reference: str, options, reward: float) -> None:
    assert verdict(response, reference, **options).reward == reward


def test_a_pattern_of_the_recipe_finds_the_answer_and_its_last_match_counts() -> None:
    options = {"pattern": r"Result: (\w+)"}
    assert verdict("Result: Rome\nResult: Paris", "paris", **options).reward == 1.0
    wrong = verdict("Result: Paris\nResult: Rome", "Paris", **options)
    assert (wrong.reward, wrong.answer, wrong.expected) == (0.0, "rome", "paris")
    assert verdict("Paris", "Paris", **options).feedback == "the pattern finds no answer"


@pytest.mark.parametrize("pattern", [r"no group", r"(two) (groups)"])
def test_a_pattern_of_the_recipe_has_one_group(pattern: str) -> None:
    with pytest.raises(ValueError, match="needs one group"):
        Regex(pattern=pattern)


def test_what_the_empty_answer_would_match_is_refused() -> None:
    with pytest.raises(ValueError, match="accepts the empty answer"):
        verdict("anything", r"\d*")


def test_a_reference_that_is_no_pattern_is_an_error() -> None:
    with pytest.raises(ValueError, match="no regular expression"):
        verdict("x", "(")
    with pytest.raises(ValueError, match="reference is empty"):
        verdict("x", " ")


def test_a_pattern_that_takes_for_ever_on_an_answer_costs_that_answer_only() -> None:
    async def scored() -> list[str]:
        pool = VerifierProcesses(processes=1)
        spec = VerifierSpec("regex", timeout_s=1.0)
        await pool.start([spec])
        try:
            asked = [ScoreRequest("", response, "^(a+)+$") for response in ("aaa", "a" * 60 + "b", "aaaa")]
            return [verdict.status for verdict in await pool.score(spec, asked)]
        finally:
            await pool.close()

    assert asyncio.run(scored()) == ["correct", "timeout", "correct"]
