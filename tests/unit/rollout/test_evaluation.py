from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.buffer_state import count_answers
from rollout.evaluation import by_set, forgetting, pass_at_k, summarize, worst_at_k
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


@given(st.integers(1, 200), st.data())
def test_worst_at_k_is_the_share_of_subsets_without_a_wrong_answer(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    assert worst_at_k(n, c, k) == pytest.approx(comb(c, k) / comb(n, k), abs=1e-12)


def test_pass_and_worst_at_one_are_the_share_of_correct_answers_and_part_with_k() -> None:
    assert pass_at_k(8, 3, 1) == worst_at_k(8, 3, 1) == pytest.approx(3 / 8)
    assert worst_at_k(4, 3, 2) == pytest.approx(0.5)
    assert worst_at_k(4, 3, 4) == 0.0 < pass_at_k(4, 3, 2) == 1.0


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (4, 5, 1), (4, -1, 1), (4, 1, 0)])
def test_impossible_counts_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"got k={k}, scored={n}, correct={c}"):
        pass_at_k(n, c, k)


def counts(id: str, tag: str, attempts: int, correct: int, failed: int = 0, truncated: int = 0) -> EvalCounts:
    """A problem whose correct answers are all alike, and whose wrong ones all differ."""
    wrong = attempts - failed - correct
    votes, right = (correct, *[1] * wrong), (correct, *[0] * wrong)
    tokens, nats = 10 * attempts, 3.0 * attempts
    return EvalCounts(
        id, tag, attempts, correct, failed, truncated, tokens, votes[not correct :], right[not correct :], nats
    )


def estimates(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.endswith(("_low", "_high"))}


def test_metrics_are_means_over_problems_overall_and_per_set() -> None:
    metrics = summarize(
        [
            counts("a", "3 numbers", 4, 1),
            counts("b", "3 numbers", 4, 4, truncated=2),
            counts("c", "4 numbers", 4, 0, failed=1),
        ],
        ks=(1, 2),
    )
    assert estimates(metrics) == pytest.approx(
        {
            "problems": 3,
            "avg@4": (0.25 + 1 + 0) / 3,
            "pass@1": (0.25 + 1 + 0) / 3,
            "pass@2": (0.5 + 1 + 0) / 3,
            "maj@2": (0.25 + 1 + 0) / 3,
            "worst@2": (0 + 1 + 0) / 3,
            "truncated_frac": 2 / 12,
            "failed_frac": 1 / 12,
            "response_len_mean": 10.0,
            "entropy": 0.3,
            "distinct_frac": (4 + 1 + 3) / (4 + 4 + 3),
            "3 numbers/problems": 2,
            "3 numbers/avg@4": 0.625,
            "3 numbers/pass@1": 0.625,
            "3 numbers/pass@2": 0.75,
            "3 numbers/maj@2": 0.625,
            "3 numbers/worst@2": 0.5,
            "3 numbers/truncated_frac": 0.25,
            "3 numbers/failed_frac": 0.0,
            "3 numbers/response_len_mean": 10.0,
            "3 numbers/entropy": 0.3,
            "3 numbers/distinct_frac": 5 / 8,
            "4 numbers/problems": 1,
            "4 numbers/avg@4": 0.0,
            "4 numbers/pass@1": 0.0,
            "4 numbers/pass@2": 0.0,
            "4 numbers/maj@2": 0.0,
            "4 numbers/worst@2": 0.0,
            "4 numbers/truncated_frac": 0.0,
            "4 numbers/failed_frac": 0.25,
            "4 numbers/response_len_mean": 10.0,
            "4 numbers/entropy": 0.3,
            "4 numbers/distinct_frac": 1.0,
        }
    )


def test_agreement_makes_a_majority_right_more_often_than_a_single_answer() -> None:
    metrics = summarize([counts("a", "", 32, 12)], ks=(1, 8, 32))
    assert metrics["avg@32"] == metrics["pass@1"] == 0.375
    assert metrics["pass@1"] < metrics["maj@8"] < metrics["maj@32"] == 1.0


def test_failed_attempts_are_left_out_of_n() -> None:
    assert summarize([counts("a", "", 4, 1, failed=2)], ks=(1,))["pass@1"] == 0.5


def test_a_problem_with_fewer_than_k_scored_attempts_is_skipped_and_counted() -> None:
    metrics = summarize([counts("a", "", 8, 8), counts("b", "", 8, 0, failed=1)], ks=(8,))
    assert metrics["pass@8"] == metrics["maj@8"] == metrics["worst@8"] == 1.0
    assert metrics["skipped@8"] == 1.0
    assert "pass@8" not in summarize([counts("b", "", 8, 0, failed=1)], ks=(8,))


def test_an_evaluation_without_any_verdict_says_so_and_estimates_nothing() -> None:
    metrics = summarize([counts("a", "", 4, 0, failed=4)], ks=(1, 4))
    expected = {"skipped@1": 1, "skipped@4": 1, "truncated_frac": 0, "failed_frac": 1, "response_len_mean": 10}
    assert metrics == {"problems": 1, "entropy": 0.3} | expected


def test_no_problems_give_no_metrics() -> None:
    assert summarize([], ks=(1, 8)) == {}


def test_metrics_are_told_apart_by_set_whatever_the_sets_are_called() -> None:
    metrics = summarize([counts("a", "algebra/level 5", 4, 1), counts("b", "", 4, 3)], ks=(1,))
    sets = by_set(metrics)
    assert list(sets) == ["", "algebra/level 5"]
    assert (sets[""]["pass@1"], sets["algebra/level 5"]["pass@1"]) == (0.5, 0.25)


# -- intervals -----------------------------------------------------------------------------------------------------


def test_an_interval_is_that_of_a_mean_over_problems() -> None:
    solved = np.random.default_rng(1).integers(0, 9, 300).tolist()
    metrics = summarize([counts(str(i), "", 8, c) for i, c in enumerate(solved)], ks=(1,))
    share = np.array(solved) / 8
    half = 1.96 * share.std() / np.sqrt(300)  # the bootstrap's limit for so many problems
    assert metrics["pass@1_low"] == pytest.approx(share.mean() - half, abs=0.1 * half)
    assert metrics["pass@1_high"] == pytest.approx(share.mean() + half, abs=0.1 * half)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng, held = np.random.default_rng(2), 0
    for _ in range(150):
        solved = rng.binomial(4, rng.beta(1, 3, size=60))  # mean 1/4
        metrics = summarize([counts(str(i), "", 4, int(c)) for i, c in enumerate(solved)], ks=(1,))
        held += metrics["pass@1_low"] <= 0.25 <= metrics["pass@1_high"]
    assert 0.88 <= held / 150 <= 0.99


def test_intervals_are_the_same_every_time_and_of_each_set_by_itself() -> None:
    some = [counts(str(i), "some", 4, i % 5) for i in range(20)]
    others = [counts(f"o{i}", "others", 4, 4) for i in range(20)]
    both = summarize(some + others, ks=(1, 4))
    alone = summarize(some, ks=(1, 4))
    assert {name: both[f"some/{name}"] for name in by_set(alone)[""]} == by_set(alone)[""]
    assert (both["others/pass@1_low"], both["others/pass@1_high"]) == (1.0, 1.0)


def test_problems_without_a_metric_are_absent_from_its_interval() -> None:
    whole = [counts(str(i), "", 4, i % 5) for i in range(20)]
    torn = [counts(f"t{i}", "", 4, 0, failed=4) for i in range(20)]
    metrics = summarize(whole + torn, ks=(4,))
    assert metrics["pass@4"] == summarize(whole, ks=(4,))["pass@4"] == 0.8
    assert 0.5 < metrics["pass@4_low"] < 0.8 < metrics["pass@4_high"] < 1.0


# -- forgetting ----------------------------------------------------------------------------------------------------


def test_forgetting_is_the_share_of_what_was_solved_that_is_solved_no_more() -> None:
    before = [counts("a", "", 4, 1), counts("b", "", 4, 4), counts("c", "", 4, 2), counts("d", "", 4, 0)]
    after = [counts("d", "", 4, 4), counts("c", "", 4, 0), counts("b", "", 4, 1), counts("a", "", 4, 2)]
    assert forgetting(before, after) == pytest.approx(1 / 3)
    assert forgetting(after, before) == pytest.approx(1 / 3)
    assert forgetting(before, before) == 0.0


def test_a_problem_without_verdicts_on_one_side_tells_nothing_of_forgetting() -> None:
    before = [counts("a", "", 4, 1), counts("b", "", 4, 4), counts("c", "", 4, 2)]
    after = [counts("a", "", 4, 0), counts("b", "", 4, 0, failed=4), counts("d", "", 4, 0)]
    assert forgetting(before, after) == 1.0
    assert forgetting(after, before) == 0.0  # nothing was solved


# -- counting ------------------------------------------------------------------------------------------------------


def test_answers_agree_by_what_the_verifier_read_in_them(make_group) -> None:
    read = ["7", "9", "7", "7", "7"]  # the last is wrong for another reason than its final answer
    counted = count_answers(make_group(rewards=(1.0, 0.0, 1.0, None, 0.0), answers=read))
    assert (counted.votes, counted.right) == ((3, 1), (2, 0))
    assert (counted.attempts, counted.scored, counted.correct, counted.failed) == (5, 4, 2, 1)


def test_answers_that_were_not_read_agree_by_their_tokens(make_group) -> None:
    tokens = [[5], [6], [6], [7]]
    counted = count_answers(make_group(rewards=(1.0, 0.0, 0.0, 1.0), versions=(0,), tokens=tokens, answers=[""] * 4))
    assert (counted.votes, counted.right) == ((2, 1, 1), (0, 1, 1))
