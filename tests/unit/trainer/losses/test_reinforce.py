import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.losses.importance import ImportanceSampling
from trainer.losses.inputs import LossInputs
from trainer.losses.reinforce import ReinforceLoss


def test_on_policy_it_is_minus_advantage_times_log_prob(make_inputs: Callable[..., LossInputs]) -> None:
    inputs = make_inputs([-1.0, -2.0], advantages=[2.0, -0.5])
    loss, _ = ReinforceLoss()(inputs)
    loss.sum().backward()
    assert loss.tolist() == [2.0, -1.0]
    assert inputs.logprobs.grad.tolist() == [-2.0, 0.5]


def test_the_gradient_is_weighted_by_the_capped_ratio_to_the_behaviour(make_inputs: Callable[..., LossInputs]) -> None:
    ratios = [0.4, 1.0, 2.5]
    inputs = make_inputs([-1.0] * 3, behaviour=(-1.0 - np.log(ratios)).tolist(), proximal=[-9.0] * 3)
    ReinforceLoss()(inputs)[0].sum().backward()
    assert inputs.logprobs.grad.tolist() == pytest.approx([-0.4, -1.0, -2.0])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_loss_equals_the_twins(ragged: Callable[[int], LossInputs], seed: int) -> None:
    inputs = ragged(seed)
    expected = [
        -min(math.exp(p - b), 1.5) * a * p if on else 0.0
        for p, b, a, on in zip(
            inputs.logprobs.tolist(),
            inputs.behaviour.tolist(),
            inputs.advantages.tolist(),
            inputs.mask.tolist(),
            strict=True,
        )
    ]
    loss, _ = ReinforceLoss(ImportanceSampling("tis", cap=1.5))(inputs)
    assert loss.tolist() == pytest.approx(expected)
