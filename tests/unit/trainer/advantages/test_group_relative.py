from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.advantages.group_relative import dr_grpo, grpo, grpo_population, rloo
from trainer.advantages.inputs import AdvantageFn, AdvantageInputs

FAMILY = (grpo, grpo_population, dr_grpo, rloo)


def of_sequences(fn: AdvantageFn, inputs: AdvantageInputs) -> list[float]:
    """Advantage of each sequence where each has one prompt and one loss token."""
    tokens = fn(inputs).tokens
    assert (tokens[::2] == 0).all()
    return tokens[1::2].tolist()


@pytest.mark.parametrize(
    ("fn", "half", "quarter"),
    [
        (grpo, [0.8660, -0.8660, -0.8660, 0.8660], [1.5, -0.5, -0.5, -0.5]),
        (grpo_population, [1.0, -1.0, -1.0, 1.0], [1.7321, -0.5774, -0.5774, -0.5774]),
        (dr_grpo, [0.5, -0.5, -0.5, 0.5], [0.75, -0.25, -0.25, -0.25]),
        (rloo, [2 / 3, -2 / 3, -2 / 3, 2 / 3], [1.0, -1 / 3, -1 / 3, -1 / 3]),
    ],
)
def test_published_values(
    make_inputs: Callable[..., AdvantageInputs], fn: AdvantageFn, half: list[float], quarter: list[float]
) -> None:
    assert of_sequences(fn, make_inputs([1, 0, 0, 1])) == pytest.approx(half, abs=5e-5)
    assert of_sequences(fn, make_inputs([1, 0, 0, 0])) == pytest.approx(quarter, abs=1e-4)


@pytest.mark.parametrize("correct", range(1, 8))
def test_the_weight_of_a_group_under_population_deviation(
    make_inputs: Callable[..., AdvantageInputs], correct: int
) -> None:
    total = np.abs(of_sequences(grpo_population, make_inputs([1] * correct + [0] * (8 - correct)))).sum()
    assert total == pytest.approx(2 * 8 * np.sqrt(correct / 8 * (1 - correct / 8)), rel=1e-5)
    if correct in (1, 7):
        assert total == pytest.approx(5.2915, abs=1e-4)


@pytest.mark.parametrize("fn", FAMILY)
@settings(max_examples=30)
@given(reward=st.floats(-1e6, 1e6, width=32), size=st.integers(1, 50))
def test_equal_rewards_and_singletons_teach_exactly_nothing(
    make_inputs: Callable[..., AdvantageInputs], fn: AdvantageFn, reward: float, size: int
) -> None:
    assert of_sequences(fn, make_inputs([reward] * size + [1.0], [0] * size + [1])) == [0.0] * (size + 1)


def test_groups_are_found_by_id_and_not_by_position(make_inputs: Callable[..., AdvantageInputs]) -> None:
    mixed = of_sequences(grpo, make_inputs([1, 5, 0, 5, 0, 9, 1], [3, 8, 3, 8, 3, 1, 3]))
    assert mixed == pytest.approx([0.8660, 0, -0.8660, 0, -0.8660, 0, 0.8660], abs=5e-5)


def test_every_loss_token_of_a_sequence_gets_its_advantage_and_no_other_token_any(
    make_inputs: Callable[..., AdvantageInputs],
) -> None:
    inputs = make_inputs([1, 0], lengths=[4, 3], mask=[False, True, False, True, False, True, True])
    assert dr_grpo(inputs).tokens.tolist() == [0, 0.5, 0, 0.5, 0, -0.5, -0.5]
    assert dr_grpo(inputs).returns is None


@pytest.mark.parametrize("fn", FAMILY)
@settings(max_examples=30)
@given(rewards=st.lists(st.floats(-5, 5, width=16), min_size=1, max_size=8))
def test_advantages_of_a_group_sum_to_nothing(
    make_inputs: Callable[..., AdvantageInputs], fn: AdvantageFn, rewards: list[float]
) -> None:
    assert sum(of_sequences(fn, make_inputs(rewards))) == pytest.approx(0, abs=1e-4)


def twin(fn: AdvantageFn, reward: float, siblings: np.ndarray) -> float:
    """Advantage of a sequence with this reward, by the definition; `siblings` includes itself."""
    n, centred = len(siblings), reward - siblings.mean()
    if n == 1 or (siblings == siblings[0]).all():
        return 0.0
    if fn is rloo:
        return reward - (siblings.sum() - reward) / (n - 1)
    if fn is dr_grpo:
        return centred
    return centred / siblings.std(ddof=1 if fn is grpo else 0)


@pytest.mark.parametrize("fn", FAMILY)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_advantages_equal_the_twins(ragged: Callable[[int], AdvantageInputs], fn: AdvantageFn, seed: int) -> None:
    inputs = ragged(seed)
    rewards = inputs.rewards.astype(np.float64)
    expected = [
        twin(fn, reward, rewards[inputs.group_ids == group])
        for reward, group in zip(rewards, inputs.group_ids, strict=True)
    ]
    tokens = np.repeat(expected, inputs.lengths) * inputs.mask
    np.testing.assert_allclose(fn(inputs).tokens, tokens, rtol=1e-4, atol=1e-6)
