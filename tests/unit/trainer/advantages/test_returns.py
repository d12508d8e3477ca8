from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.advantages.inputs import AdvantageInputs
from trainer.advantages.returns import discounted_sums, token_rewards


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 6), max_size=8), discount=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 99)
)
def test_discounted_sums_stay_within_their_sequence(lengths: list[int], discount: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=sum(lengths))
    expected = [
        sum(discount**k * value for k, value in enumerate(part[t:]))
        for part in np.split(x, np.cumsum(lengths))
        for t in range(len(part))
    ]
    np.testing.assert_allclose(discounted_sums(x, np.array(lengths, np.int32), discount), expected, atol=1e-12)


def test_the_reward_comes_with_the_last_loss_token(make_inputs: Callable[..., AdvantageInputs]) -> None:
    inputs = make_inputs([1, 5, 2], lengths=[3, 1, 2], mask=[True, True, False, False, False, True])
    assert token_rewards(inputs, inputs.rewards).tolist() == [0, 1, 2]


def test_kl_is_taken_off_the_reward_of_its_own_token(make_inputs: Callable[..., AdvantageInputs]) -> None:
    inputs = make_inputs([1], lengths=[4], mask=[False, True, False, True], kl=[9, 0.25, 9, 0.5])
    assert token_rewards(inputs, inputs.rewards).tolist() == pytest.approx([-0.25, 0.5])
