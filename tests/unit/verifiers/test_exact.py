import pytest

from verifiers.exact import Exact
from verifiers.records import ScoreRequest


def reward(response: str, reference: str) -> float | None:
    return Exact().score(ScoreRequest("", response, reference)).reward


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("Paris", "Paris"),
        ("  pARIS. ", "Paris"),
        ("It is well known.\n#### New  York", "new york"),
        ("1,400", "1400"),
        (r"so \boxed{B}", "B"),
        ("The answer is B.", "B"),
        ("The answer is St. Louis", "St. Louis"),
        ("The answer is St. Louis. It is on the Mississippi.", "St. Louis"),
        ("<answer>Paris</answer>", "Paris"),
        ("72", "48+24 = 72\n#### 72"),
    ],
)
def test_equal_up_to_case_space_and_commas_is_correct(response: str, reference: str) -> None:
    assert reward(response, reference) == 1.0


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("", "Paris"),
        ("Paris, or Rome", "Paris"),
        ("Not Paris", "Paris"),
        ("Paris\n#### Rome", "Paris"),
        (r"\boxed{Rome}, not Paris", "Paris"),
        ("1,40", "140"),  # no thousands comma
        ("72.0", "72"),  # the same number, but not the same text
    ],
)
def test_traps_are_wrong(response: str, reference: str) -> None:
    assert reward(response, reference) == 0.0


def test_an_empty_reference_is_an_error() -> None:
    with pytest.raises(ValueError, match="reference is empty"):
        reward("", "#### ")


def test_answers_vote_as_they_are_compared() -> None:
    read = [Exact().score(ScoreRequest("", text, "Paris")).answer for text in ("PARIS.", "####  paris", "#### Rome")]
    assert read == ["paris", "paris", "rome"]
