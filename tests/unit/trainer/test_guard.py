"""The stability guard as a table of cases, and what holds for any run."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import GuardConfig
from trainer.guard import Guard, Ruling, Standing

INSIDE = {"mismatch_kl": 0.01, "ess_frac": 0.9, "clip_frac": 0.1, "entropy": 1.0, "grad_norm": 1.0, "skipped": 0.0}
OUTSIDE = INSIDE | {"mismatch_kl": 0.8}


def ruled(guard: Guard, steps: Sequence[dict[str, float]]) -> tuple[list[Ruling], Standing]:
    standing, rulings = Standing(), []
    for metrics in steps:
        ruling, standing = guard.judge(metrics, standing)
        rulings.append(ruling)
    return rulings, standing


def actions(guard: Guard, steps: Sequence[dict[str, float]]) -> str:
    """One letter per step: . go on, t tighten, r roll back, s stop."""
    return "".join({"go_on": "."}.get(ruling.action, ruling.action[0]) for ruling in ruled(guard, steps)[0])


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ({"mismatch_kl": 0.51}, "mismatch_kl is 0.51, trainer.guard.mismatch_kl allows at most 0.5"),
        ({"ess_frac": 0.09}, "ess_frac is 0.09, trainer.guard.ess_frac allows at least 0.1"),
        ({"clip_frac": 0.7}, "clip_frac is 0.7, trainer.guard.clip_frac allows at most 0.6"),
        ({"entropy": 0.1}, "entropy is 0.1, trainer.guard.entropy allows at least 0.2"),
        ({"mismatch_kl": math.nan}, "mismatch_kl is nan, trainer.guard.mismatch_kl allows at most 0.5"),
        ({"skipped": 0.5}, "loss or gradient was not finite in 50% of the updates, which were left out"),
        ({"mismatch_kl": 0.5, "ess_frac": 0.1, "clip_frac": 0.6, "entropy": 0.2}, ""),
        (
            {"clip_frac": 0.7, "entropy": 0.1},
            "clip_frac is 0.7, trainer.guard.clip_frac allows at most 0.6; entropy is",
        ),
    ],
)
def test_what_is_outside_is_named_with_its_value_and_its_band(metrics: dict[str, float], sentence: str):
    (ruling,), standing = ruled(Guard(GuardConfig(entropy=0.2)), [INSIDE | metrics])
    assert ruling.reason.startswith(sentence)
    assert bool(ruling.reason) == bool(sentence)
    assert standing.happy == (not sentence)
    assert ruling.action == "go_on"  # it was one step


@pytest.mark.parametrize(
    ("settings", "max_staleness", "outside", "expected"),
    [
        # 1: the step is outside
        ({"patience": 3}, 2, "000110100", "........."),
        ({"patience": 3}, 2, "0111", "...t"),
        ({"patience": 3}, 2, "0111111", "...t..r"),
        ({"patience": 3}, 2, "111111111111", "..t..r..t..r"),
        ({"patience": 3}, 1, "111111111", "..t..r..r"),  # nothing left to tighten
        ({"patience": 3}, 0, "111111111", "..r..r..s"),
        ({"patience": 3}, 0.5, "111", "..r"),  # a fraction bounds like 0
        ({"patience": 1, "max_rollbacks": 1}, 1, "1111", "trs" + "s"),
        ({"patience": 1, "max_rollbacks": 0}, 1, "11", "ts"),
        ({"patience": 2}, 3, "1100000011", ".t.......r"),  # tightened once before every rollback
        ({"patience": 1, "mismatch_kl": None}, 3, "1111", "...."),
    ],
)
def test_first_the_bound_is_tightened_then_the_learner_goes_back_then_the_run_stops(
    settings: dict[str, Any], max_staleness: float, outside: str, expected: str
):
    guard = Guard(GuardConfig(**settings), max_staleness=max_staleness)
    assert actions(guard, [OUTSIDE if step == "1" else INSIDE for step in outside]) == expected


def test_the_reasons_say_what_is_done():
    rulings, standing = ruled(Guard(GuardConfig(patience=1, max_rollbacks=1), max_staleness=1.5), [OUTSIDE] * 3)
    tighten, roll_back, stop = (ruling.reason for ruling in rulings)
    assert "(1 step in a row outside); the staleness bound goes from 1.5 to 0.5 for the rest of the phase" in tighten
    assert (
        "(2 steps in a row outside); the learner goes back to its last good checkpoint (rollback 1 of at" in roll_back
    )
    assert "the run stops after 1 rollbacks in this phase, of trainer.guard.max_rollbacks=1: start anew" in stop
    assert Guard(GuardConfig(), max_staleness=1.5).bound(standing) == 0.5


def test_a_gradient_norm_is_held_against_the_median_of_the_phase():
    guard = Guard(GuardConfig(grad_norm=10, patience=1))
    usual = [INSIDE | {"grad_norm": norm} for norm in (1.0, 2.0, 3.0, 2.0, 2.0, 2.0, 1.0, 3.0)]
    assert actions(guard, [*usual, INSIDE | {"grad_norm": 20.0}]) == "........."
    assert actions(guard, [*usual, INSIDE | {"grad_norm": 20.1}]) == "........r"
    assert actions(guard, [*usual[:7], INSIDE | {"grad_norm": 1e6}]) == "........"  # seven are no median yet
    nothing_to_learn = [INSIDE | {"grad_norm": 0.0}] * 20
    assert actions(guard, [*nothing_to_learn, INSIDE | {"grad_norm": 1.0}]) == "." * 21


def test_an_update_that_was_left_out_has_no_other_metrics_and_is_no_part_of_the_median():
    rulings, standing = ruled(Guard(GuardConfig(patience=2)), [INSIDE, {"skipped": 1.0}, {"skipped": 1.0}])
    assert [ruling.action for ruling in rulings] == ["go_on", "go_on", "roll_back"]
    assert standing.grad_norms == (1.0,)


def test_in_supervised_phases_only_what_is_not_finite_counts():
    guard = Guard(GuardConfig(patience=1, max_rollbacks=1), "rft", max_staleness=4)
    assert actions(guard, [{"loss": 3.0, "grad_norm": 1e9, "entropy": 0.0, "skipped": 0.0}] * 20) == "." * 20
    assert actions(guard, [{"skipped": 1.0}] * 2) == "rs"


NAMES = st.sampled_from(["mismatch_kl", "ess_frac", "clip_frac", "entropy", "grad_norm", "skipped"])
STEPS = st.lists(st.dictionaries(NAMES, st.floats(0, 3) | st.just(math.nan)), max_size=60)
CONFIGS = st.builds(
    GuardConfig,
    patience=st.integers(1, 4),
    max_rollbacks=st.integers(0, 3),
    entropy=st.none() | st.floats(0.1, 2),
    grad_norm=st.none() | st.floats(1.1, 5),
)


@given(CONFIGS, st.floats(0, 5), STEPS)
def test_measures_are_bounded_and_a_step_inside_the_bands_is_never_answered(
    config: GuardConfig, max_staleness: float, steps: list[dict[str, float]]
):
    guard = Guard(config, max_staleness=max_staleness)
    standing, bound = Standing(), max_staleness
    for metrics in steps:
        before = standing
        ruling, standing = guard.judge(metrics, before)
        inside = not ruling.reason
        assert standing.rollbacks <= config.max_rollbacks
        assert standing.tightened <= max_staleness
        assert 0 <= guard.bound(standing) <= bound
        assert (guard.bound(standing) < bound) == (ruling.action == "tighten")
        assert standing.happy == (inside or ruling.action == "roll_back")
        if inside:
            assert ruling.action == "go_on"
        if ruling.action != "go_on":
            assert (before.steps_outside + 1) % config.patience == 0
        bound = guard.bound(standing)
        if ruling.action == "stop":
            return


@given(STEPS, st.integers(0, 60))
def test_a_standing_that_was_written_and_read_comes_to_the_same_rulings(steps: list[dict[str, float]], cut: int):
    guard = Guard(GuardConfig(patience=2, grad_norm=2), max_staleness=2)
    whole, end = ruled(guard, steps)
    first, standing = ruled(guard, steps[:cut])
    fields = json.loads(json.dumps(asdict(standing)))
    standing = replace(Standing(**fields), grad_norms=tuple(fields["grad_norms"]))
    for metrics in steps[cut:]:
        ruling, standing = guard.judge(metrics, standing)
        first.append(ruling)
    assert (first, standing) == (whole, end)
