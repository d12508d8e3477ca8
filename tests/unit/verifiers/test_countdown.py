import pytest

from verifiers.countdown import Countdown
from verifiers.records import ScoreRequest


def reward(response: str, reference: str = "3,7,2,5>14") -> float | None:
    return Countdown().score(ScoreRequest("", response, reference)).reward


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("7-3=4;2*5=10;4+10=14", "3,7,2,5>14"),
        ("7*2=14", "3,7,2,5>14"),  # not every number must be used
        (" 7*2=14\n", "3,7,2,5>14"),
        ("5-5=0;0+3=3", "5,5,3>3"),
        ("8/4=2", "8,4,9>2"),
        ("2+2=4", "2,2,9>4"),
    ],
)
def test_true_steps_to_the_target_are_correct(response: str, reference: str) -> None:
    assert reward(response, reference) == 1.0


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("", "3,7,2,5>14"),
        ("14", "3,7,2,5>14"),  # the target copied
        ("14=14", "3,7,2,5>14"),
        ("7-0=7", "3,7,2,5>7"),  # a number that is not there
        ("7*2=14;3+5=8", "3,7,2,5>14"),  # the target in the wrong place
        ("7+7=14", "3,7,2,5>14"),  # one number used twice
        ("3+2=5;3+7=10", "3,7,2,5>10"),  # a used number used again
        ("7*2=15", "3,7,2,5>15"),  # not true
        ("7*2=14 so", "3,7,2,5>14"),
        ("7*2=14;", "3,7,2,5>14"),
        (";7*2=14", "3,7,2,5>14"),
        ("7*2=14;;3+5=8", "3,7,2,5>14"),
        ("07*2=14", "3,7,2,5>14"),
        ("7 * 2 = 14", "3,7,2,5>14"),
        ("2-3=-1;7--1=8", "3,7,2,5>8"),  # below zero
        ("7/2=3", "3,7,2,5>3"),  # a remainder
        ("3-3=0;7/0=0", "3,3,7>0"),  # division by zero
        ("٧*2=14", "3,7,2,5>14"),  # a digit of another script
        ("9" * 5_000 + "+1=2", "3,7,2,5>14"),
        ("7*2=" + "9" * 100_000, "3,7,2,5>14"),
    ],
)
def test_traps_are_wrong(response: str, reference: str) -> None:
    assert reward(response, reference) == 0.0


def test_a_wrong_answer_says_why() -> None:
    assert Countdown().score(ScoreRequest("", "7+7=14", "3,7>14")).feedback == "7+7=14: 7 is not there"


def test_a_reference_of_another_task_is_an_error_and_not_a_wrong_answer() -> None:
    with pytest.raises(ValueError, match="looks like '3,7,2,5>24'"):
        reward("7*2=14", "#### 14")


@pytest.mark.parametrize("response", [" 7*2=14\n", "7+7=14"])
def test_the_answer_that_votes_is_the_whole_text_right_or_wrong(response: str) -> None:
    assert Countdown().score(ScoreRequest("", response, "3,7,2,5>14")).answer == response.strip()
