import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.ngrams import jaccard, ngrams

ANSWERS = st.lists(st.integers(0, 3), max_size=12)


def sets(tokens: list[int], n: int) -> set[tuple[int, ...]]:
    """What n-grams are, by the book; a short answer is one n-gram."""
    if len(tokens) < n:
        return {tuple(tokens)} if tokens else set()
    return {tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)}


@given(a=ANSWERS, b=ANSWERS, n=st.integers(1, 5))
def test_similarity_is_that_of_the_sets_of_tuples(a, b, n):
    left, right = sets(a, n), sets(b, n)
    expected = len(left & right) / len(left | right) if left | right else 1.0
    hashes = ngrams(np.array(a, np.int32), n), ngrams(np.array(b, np.int32), n)
    assert [len(h) for h in hashes] == [len(left), len(right)]
    assert jaccard(*hashes) == expected


def test_two_sentences_by_hand():
    a, b = np.array([1, 2, 3, 4, 5, 6]), np.array([9, 2, 3, 4, 5, 7])
    assert jaccard(ngrams(a, 2), ngrams(b, 2)) == pytest.approx(3 / 7)  # (2,3) (3,4) (4,5) of seven
    assert jaccard(ngrams(a, 4), ngrams(b, 4)) == pytest.approx(1 / 5)


def test_a_short_answer_is_not_a_part_of_a_long_one():
    assert jaccard(ngrams(np.array([1, 2]), 4), ngrams(np.array([1, 2, 1, 2]), 4)) == 0
    assert jaccard(ngrams(np.array([0]), 4), ngrams(np.array([0, 0]), 4)) == 0


def test_no_two_of_a_million_bigrams_share_a_hash():
    pairs = np.stack(np.meshgrid(np.arange(1000), np.arange(1000)), -1).reshape(-1)
    both = ngrams(pairs, 2)
    windows = np.lib.stride_tricks.sliding_window_view(pairs, 2)
    assert len(both) == len(np.unique(windows[:, 0] * 1000 + windows[:, 1]))
