import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.evaluation import pass_at_k
from rollout.majority import majority_at_k


def by_enumeration(votes: list[int], right: list[int], k: int) -> float:
    """Every subset of k answers, every tie shared out."""
    ballots = [answer for answer, count in enumerate(votes) for _ in range(count)]
    values = []
    for subset in itertools.combinations(ballots, k):
        polled = Counter(subset)
        winners = [answer for answer, count in polled.items() if count == max(polled.values())]
        values.append(np.mean([right[answer] / votes[answer] for answer in winners]))
    return float(np.mean(values))


@st.composite
def polls(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    votes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    right = [draw(st.sampled_from([0, count, draw(st.integers(0, count))])) for count in votes]
    return votes, right, draw(st.integers(1, sum(votes)))


@settings(max_examples=60)
@given(polls())
def test_the_value_is_the_mean_over_all_subsets_with_ties_shared_out(poll: tuple[list[int], list[int], int]) -> None:
    votes, right, k = poll
    if sum(votes) <= 12:
        assert majority_at_k(votes, right, k) == pytest.approx(by_enumeration(votes, right, k), abs=1e-12)


@pytest.mark.parametrize(
    ("votes", "right", "k", "expected"),
    [
        ((3, 2), (3, 0), 5, 1.0),
        ((3, 2), (0, 2), 5, 0.0),
        ((2, 2), (2, 0), 4, 0.5),  # a tie
        ((2, 1), (2, 0), 3, 1.0),
        ((3, 1), (3, 0), 3, 1.0),  # of four subsets one is 3:0 and three are 2:1
        ((2, 2), (2, 0), 3, 0.5),
        ((2, 1, 1), (2, 0, 0), 3, 2 / 3),  # two subsets are 2:1, two are 1:1:1
        ((4, 2), (3, 0), 6, 0.75),  # its verifier judged more than the final answer
    ],
)
def test_small_polls_that_can_be_counted_by_hand(
    votes: tuple[int, ...], right: tuple[int, ...], k: int, expected: float
) -> None:
    assert majority_at_k(votes, right, k) == pytest.approx(expected, abs=1e-12)


@given(polls())
def test_one_answer_and_two_answers_are_no_majority(poll: tuple[list[int], list[int], int]) -> None:
    votes, right, _ = poll
    accuracy = pass_at_k(sum(votes), sum(right), 1)
    assert majority_at_k(votes, right, 1) == pytest.approx(accuracy)
    if sum(votes) >= 2:
        assert majority_at_k(votes, right, 2) == pytest.approx(accuracy)


def test_the_order_of_the_answers_does_not_matter() -> None:
    votes, right = [7, 5, 3, 1, 1], [0, 5, 0, 1, 0]
    for order in itertools.permutations(range(5)):
        shuffled = [votes[i] for i in order], [right[i] for i in order]
        assert majority_at_k(*shuffled, k=8) == pytest.approx(majority_at_k(votes, right, 8))


def test_large_k_is_estimated_within_its_stated_error() -> None:
    votes, right = [10, 9, 8, 1, 1, 1], [0, 9, 0, 1, 0, 0]
    assert majority_at_k(votes, right, 27) == pytest.approx(by_enumeration(votes, right, 27), abs=4 * 0.011)
    assert majority_at_k(votes, right, 27) == majority_at_k(votes, right, 27)


def test_more_votes_than_were_given_are_refused() -> None:
    with pytest.raises(ValueError, match="got k=4 and 3 votes"):
        majority_at_k([2, 1], [2, 0], 4)
