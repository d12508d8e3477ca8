import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from effect_results import Results
from effect_runs import Policy, Run, policies
from effect_statistics import estimate, paired_p, quantile, tail

from actors.manifest import Manifest
from actors.records import EvalRow
from trainer.phases import Phase


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


def row(weights: str, step: int = 0) -> EvalRow:
    return EvalRow(weights, "", {}, 1, 1, step=step)


def test_a_policy_is_drawn_at_the_steps_that_it_had_cost():
    rl = (
        Phase("rl", 0, "theta-0", "rl-0", 40),
        Phase("rft", 0, "theta-0", "theta-1"),
        Phase("rl", 1, "theta-1", "rl-1", 40),
    )
    rows = row("theta-0"), row("rl-0-step-20", 20), row("rl-0"), row("theta-1"), row("rl-1-step-20", 20)
    found = policies(Manifest("", done=rl, evals=rows))
    assert [(one.rl_steps, one.after_rft) for one in found] == [
        (0, False),
        (20, False),
        (40, False),
        (40, True),
        (60, False),
    ]


def test_sampling_without_training_costs_steps_and_makes_no_policy():
    done = Phase("sample", 0, "theta-0", "theta-0", 40), Phase("rft", 0, "theta-0", "theta-1")
    found = policies(Manifest("", done=done, evals=(row("theta-0"), row("theta-1"))))
    assert [(one.rl_steps, one.after_rft) for one in found] == [(0, False), (40, True)]


def test_finished_runs_are_found_again_under_the_same_settings_only(tmp_path):
    run = Run("RLoop", 3, (Policy(0, False, {"a/pass@1": 0.25}), Policy(40, True, {"a/pass@1": 0.5})), 7, 8, 9.5, 0.75)
    file = tmp_path / "runs.jsonl"
    Results(file, ["x=1"]).add(run)
    Results(file, ["x=2"]).add(run)
    assert Results(file, ["x=1"]).find("RLoop", 3) == run
    assert Results(file, ["x=1"]).find("RLoop", 4) is None
    assert Results(file, ["x=3"]).find("RLoop", 3) is None
