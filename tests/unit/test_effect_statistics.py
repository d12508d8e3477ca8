import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from effect_statistics import estimate, paired_p, quantile, tail


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.7062), (2, 4.30265), (4, 2.77645), (9, 2.26216), (30, 2.04227)]
)
def test_the_quantiles_are_those_of_the_tables(freedom, expected):
    assert quantile(freedom) == pytest.approx(expected, abs=1e-4)


def test_a_paired_test_has_the_published_p():
    """Differences 1 to 5: t = 3 / (sqrt(2.5) / sqrt(5)) = 4.2426 with 4 degrees of freedom, p = 0.01324."""
    assert paired_p([2, 4, 6, 8, 10], [1, 2, 3, 4, 5]) == pytest.approx(0.01324, abs=1e-5)
    assert paired_p([1, 2, 3, 4, 5], [2, 4, 6, 8, 10]) == pytest.approx(0.01324, abs=1e-5)
    assert paired_p([1, 2], [1, 2]) == 1.0
    assert math.isnan(paired_p([1], [2]))


def test_with_one_degree_of_freedom_the_tail_is_the_one_of_cauchy():
    assert tail(1.0, 1) == pytest.approx(0.25, abs=1e-9)
    assert tail(3.0, 1) == pytest.approx(0.5 - math.atan(3) / math.pi, abs=1e-9)


def test_an_interval_is_t_times_the_standard_error():
    found = estimate([0.1, 0.2, 0.3, 0.4, 0.5])
    assert found.mean == pytest.approx(0.3)
    assert found.half == pytest.approx(2.77645 * math.sqrt(0.025 / 5), abs=1e-5)
    assert math.isnan(estimate([0.3]).half)
