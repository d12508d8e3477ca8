import pytest

from verifiers.length import Length
from verifiers.records import ScoreRequest


def verdict(response: str, **options):
    return Length(**options).score(ScoreRequest("", response, ""))


@pytest.mark.parametrize(("words", "reward"), [(0, 0.0), (1, 0.5), (2, 1.0), (4, 1.0), (5, 0.5), (6, 0.0), (9, 0.0)])
def test_the_reward_falls_over_the_slack_on_both_sides(words: int, reward: float) -> None:
    found = verdict("word " * words, minimum=2, maximum=4, slack=2)
    assert found.reward == reward
    assert found.status == ("correct" if 2 <= words <= 4 else "wrong")
    assert found.facts == {"words": words}


def test_without_slack_the_edge_is_sharp() -> None:
    assert [verdict("x" * n, maximum=3, unit="characters").reward for n in (0, 1, 3, 4)] == [0.0, 1.0, 1.0, 0.0]


def test_thoughts_do_not_count() -> None:
    assert verdict("<think>many many words</think> two words", maximum=2, after="</think>").reward == 1.0


@pytest.mark.parametrize("options", [{"minimum": 5, "maximum": 4}, {"slack": -1}, {"unit": "tokens"}, {"maximum": 4.5}])
def test_senseless_limits_are_refused(options) -> None:
    with pytest.raises(ValueError, match=r"must be|is one of|whole number"):
        Length(**options)
