import math
from dataclasses import replace

import numpy as np
import pytest

from trainer.config import PhaseEndConfig
from trainer.early_stop import Lowest
from trainer.phase_end import PhaseEnd, Signals, trend


def judge(config: PhaseEndConfig, history: list[dict[str, float]]) -> list[str]:
    """What is said of each step of a phase, from step 1 on."""
    rules, signals, said = PhaseEnd(config), Signals(), []
    for step, metrics in enumerate(history, start=1):
        why, signals = rules.step(step, metrics, signals)
        said.append(why)
    return said


def test_a_phase_ends_after_so_many_steps_in_a_row_beyond_a_bound_and_says_which():
    config = PhaseEndConfig(forgetting=0.3, patience=2, min_steps=1)
    said = judge(config, [{"forgetting": f} for f in (0.4, 0.2, 0.31, 0.5)])
    assert said[:3] == ["", "", ""]
    assert said[3] == "forgetting is 0.5, above schedule.end.forgetting=0.3, 2 steps in a row"


def test_diversity_and_entropy_end_a_phase_from_below():
    config = PhaseEndConfig(inter_step_diversity=0.5, entropy=0.1, patience=1, min_steps=1)
    assert judge(config, [{"inter_step_diversity": 0.5, "entropy": 0.1}]) == [""]
    assert "inter_step_diversity is 0.49, below" in judge(config, [{"inter_step_diversity": 0.49, "entropy": 1}])[0]
    assert "entropy is 0.05, below schedule.end.entropy=0.1" in judge(config, [{"entropy": 0.05}])[0]


def test_no_phase_ends_before_its_least_number_of_steps_and_the_steps_before_count():
    config = PhaseEndConfig(entropy=1.0, patience=3, min_steps=5)
    assert [bool(why) for why in judge(config, [{"entropy": 0.5}] * 6)] == [False] * 4 + [True] * 2


def test_nothing_ends_a_phase_that_no_bound_is_set_for():
    worst = {"forgetting": 1.0, "inter_step_diversity": 0.0, "entropy": 0.0, "overfit_gap": 9.0}
    assert judge(PhaseEndConfig(min_steps=1, patience=1), [worst] * 3) == ["", "", ""]


def test_reward_that_rises_while_held_out_accuracy_falls_is_a_gap_of_both():
    """Lines through three points at equal distances have the slope of their ends: (r3 - r1) and (p3 - p1)."""
    found = trend(((10, 0.2, 0.9), (20, 0.9, 0.1), (30, 0.5, 0.8)))
    assert found == pytest.approx({"reward_trend": 0.3, "heldout_trend": -0.1, "overfit_gap": 0.4})


@pytest.mark.parametrize("curve", [(0.2, 0.3, 0.7, 0.9), (0.3, 0.2, 0.9, 0.7), (0.3, 0.2, 0.7, 0.9)])
def test_there_is_no_gap_unless_one_rises_and_the_other_falls(curve):
    r1, r3, p1, p3 = curve
    assert trend(((1, r1, p1), (2, (r1 + r3) / 2, (p1 + p3) / 2), (3, r3, p3)))["overfit_gap"] == 0


def test_the_trend_is_that_of_an_ordinary_least_squares_line():
    rng = np.random.default_rng(0)
    steps, rewards, passes = [3, 10, 11], rng.random(3), rng.random(3)
    design = np.stack([np.ones(3), steps], axis=1)
    slopes = [np.linalg.lstsq(design, values, rcond=None)[0][1] * 8 for values in (rewards, passes)]
    found = trend(tuple(zip(steps, rewards, passes, strict=True)))
    assert [found["reward_trend"], found["heldout_trend"]] == pytest.approx(slopes)


def test_an_evaluation_takes_the_mean_reward_of_the_steps_since_the_one_before():
    rules, signals = PhaseEnd(PhaseEndConfig()), Signals()
    _, signals = rules.evaluated(0, 0.9, signals)  # of the weights that the phase starts from: nothing was made yet
    points = []
    for step, reward in enumerate((0.1, 0.3, 0.3, 0.5, 0.5, 0.7), start=1):
        _, signals = rules.step(step, {"reward_generated": reward, "reward": 9.0}, signals)
        if step % 2 == 0:
            metrics, signals = rules.evaluated(step, 0.8 - 0.1 * step, signals)
            points.append(metrics)
    assert np.array(signals.curve) == pytest.approx(np.array([(2, 0.2, 0.6), (4, 0.4, 0.4), (6, 0.6, 0.2)]))
    assert points[:2] == [{}, {}]
    assert points[2]["overfit_gap"] == pytest.approx(0.4 + 0.4)
    assert replace(signals, curve=()) == Signals(signals.outside)


def test_a_held_out_loss_that_is_no_number_is_never_the_lowest():
    lowest = Lowest().after(math.nan, 1, "a")
    assert lowest.after(2.0, 2, "b") == Lowest(2.0, 2, "b")
    assert Lowest(2.0, 2, "b").after(math.nan, 3, "c") == Lowest(2.0, 2, "b", checks_since=1)
