from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.evaluation import pass_at_k, summarize
from rollout.records import EvalCounts


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(10, 3, 2, 8 / 15), (4, 1, 2, 0.5), (8, 2, 4, 0.785714), (32, 4, 8, 0.704505), (5, 0, 5, 0.0), (5, 5, 1, 1.0)],
)
def test_pass_at_k_has_the_known_values(n: int, c: int, k: int, expected: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-6)


@given(st.integers(1, 200), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_answer(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert pass_at_k(n, c, k) == pytest.approx(1 - comb(n - c, k) / comb(n, k), abs=1e-12)


def test_pass_at_k_is_stable_for_many_answers() -> None:
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 5, 1), (4, -1, 1), (4, 1, 0)])
def test_impossible_counts_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"got k={k}, scored={n}, correct={c}"):
        pass_at_k(n, c, k)


def counts(id: str, tag: str, attempts: int, correct: int, failed: int = 0, truncated: int = 0) -> EvalCounts:
    return EvalCounts(id, tag, attempts, correct, failed, truncated, tokens=10 * attempts)


def test_metrics_are_means_over_problems_overall_and_per_tag() -> None:
    metrics = summarize(
        [
            counts("a", "3 numbers", 4, 1),
            counts("b", "3 numbers", 4, 4, truncated=2),
            counts("c", "4 numbers", 4, 0, failed=1),
        ],
        ks=(1, 2),
    )
    assert metrics == pytest.approx(
        {
            "pass@1": (0.25 + 1 + 0) / 3,
            "pass@2": (0.5 + 1 + 0) / 3,
            "truncated_frac": 2 / 12,
            "failed_frac": 1 / 12,
            "response_len_mean": 10.0,
            "3 numbers/pass@1": 0.625,
            "3 numbers/pass@2": 0.75,
            "3 numbers/truncated_frac": 0.25,
            "3 numbers/failed_frac": 0.0,
            "3 numbers/response_len_mean": 10.0,
            "4 numbers/pass@1": 0.0,
            "4 numbers/pass@2": 0.0,
            "4 numbers/truncated_frac": 0.0,
            "4 numbers/failed_frac": 0.25,
            "4 numbers/response_len_mean": 10.0,
        }
    )


def test_failed_attempts_are_left_out_of_n() -> None:
    assert summarize([counts("a", "", 4, 1, failed=2)], ks=(1,))["pass@1"] == 0.5


def test_a_problem_with_fewer_than_k_scored_attempts_is_skipped_and_counted() -> None:
    metrics = summarize([counts("a", "", 8, 8), counts("b", "", 8, 0, failed=1)], ks=(8,))
    assert metrics["pass@8"] == 1.0
    assert metrics["skipped@8"] == 1.0
    assert "pass@8" not in summarize([counts("b", "", 8, 0, failed=1)], ks=(8,))


def test_no_problems_give_no_metrics() -> None:
    assert summarize([], ks=(1, 8)) == {}
