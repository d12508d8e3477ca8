"""The statistics of these tests."""

from collections import Counter

import numpy as np
import pytest
from findings import same_distribution

DRAW = np.random.default_rng(0)


def lengths(number: int) -> Counter[int]:
    return Counter(np.minimum(DRAW.geometric(0.05, number), 48).tolist())


def test_two_samples_of_one_distribution_rarely_look_different():
    values = [same_distribution(lengths(900), lengths(700)) for _ in range(2000)]
    assert sum(value < 0.01 for value in values) <= 20 + 3 * np.sqrt(20)


def test_a_sample_that_misses_every_fourth_long_answer_is_told_apart():
    whole = lengths(6000)
    thinned = Counter({length: count if length < 30 else count * 3 // 4 for length, count in lengths(6000).items()})
    assert same_distribution(whole, thinned) < 1e-3


def test_the_value_is_that_of_the_textbook():
    """Smirnov's table: for large samples the 5 % point of sqrt(n m / (n + m)) D is 1.3581, the 0.1 % point 1.9495."""
    n = 200_000
    for scaled, probability in ((1.3581, 0.05), (1.9495, 0.001)):
        shifted = round(scaled * np.sqrt(2 / n) * n)
        some, others = {1: n // 2, 2: n // 2}, {1: n // 2 + shifted, 2: n // 2 - shifted}
        assert same_distribution(some, others) == pytest.approx(probability, rel=0.02)
