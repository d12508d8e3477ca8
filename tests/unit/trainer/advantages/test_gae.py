from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.advantages.gae import GAE
from trainer.advantages.inputs import AdvantageInputs

UNIT = st.sampled_from([0.0, 0.3, 0.95, 1.0])


def test_three_tokens_by_hand(make_inputs: Callable[..., AdvantageInputs]) -> None:
    inputs = make_inputs([1], lengths=[3], mask=[True] * 3, values=[0.5, 0.6, 0.8])
    done = GAE(gamma=1.0, lam=0.5, whiten=False)(inputs)
    # deltas .1, .2, .2; from the end: .2, .2 + .1 = .3, .1 + .15 = .25
    assert done.tokens.tolist() == pytest.approx([0.25, 0.3, 0.2])
    assert done.returns.tolist() == pytest.approx([0.75, 0.9, 1.0])


def test_time_stands_still_off_the_mask(make_inputs: Callable[..., AdvantageInputs]) -> None:
    mask = [False, True, False, False, True, True, False]
    inputs = make_inputs([1], lengths=[7], mask=mask, values=[9, 0.5, 9, 9, 0.6, 0.8, 9])
    done = GAE(gamma=1.0, lam=0.5, whiten=False)(inputs)
    assert done.tokens.tolist() == pytest.approx([0, 0.25, 0, 0, 0.3, 0.2, 0])
    assert done.returns.tolist() == pytest.approx([0, 0.75, 0, 0, 0.9, 1.0, 0])


def test_with_both_at_1_it_is_reward_minus_value_and_returns_are_the_reward(
    make_inputs: Callable[..., AdvantageInputs],
) -> None:
    inputs = make_inputs([1, 0], lengths=[2, 2], mask=[True] * 4, values=[0.5, 0.75, 0.25, 0.5])
    done = GAE(whiten=False)(inputs)
    assert done.tokens.tolist() == [0.5, 0.25, -0.25, -0.5]
    assert done.returns.tolist() == [1, 1, 0, 0]


def test_whitening_changes_advantages_and_not_returns(make_inputs: Callable[..., AdvantageInputs]) -> None:
    inputs = make_inputs([1, 0], lengths=[2, 2], mask=[True] * 4, values=[0.5, 0.75, 0.25, 0.5])
    done = GAE()(inputs)
    plain = np.array([0.5, 0.25, -0.25, -0.5])
    assert done.tokens.tolist() == pytest.approx((plain / plain.std()).tolist())
    assert done.returns.tolist() == [1, 1, 0, 0]


def twin(inputs: AdvantageInputs, gamma: float, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Equation 16 as it is written: a sum over all later loss tokens."""
    tokens, returns = np.zeros(len(inputs.mask)), np.zeros(len(inputs.mask))
    ends = np.cumsum(inputs.lengths)
    for s, (start, end) in enumerate(zip(ends - inputs.lengths, ends, strict=True)):
        kept = [t for t in range(start, end) if inputs.mask[t]]
        values = [float(inputs.values[t]) for t in kept] + [0.0]
        rewards = [-float(inputs.kl[t]) for t in kept]
        if kept:
            rewards[-1] += float(inputs.rewards[s])
        deltas = [r + gamma * values[i + 1] - values[i] for i, r in enumerate(rewards)]
        for i, t in enumerate(kept):
            tokens[t] = sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[i:]))
            returns[t] = tokens[t] + values[i]
    return tokens, returns


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), gamma=UNIT, lam=UNIT)
def test_advantages_and_returns_equal_the_twins(
    ragged: Callable[[int], AdvantageInputs], seed: int, gamma: float, lam: float
) -> None:
    inputs = ragged(seed)
    done = GAE(gamma, lam, whiten=False)(inputs)
    for mine, expected in zip((done.tokens, done.returns), twin(inputs, gamma, lam), strict=True):
        np.testing.assert_allclose(mine, expected, atol=1e-5)
