from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.losses.inputs import LossInputs
from trainer.losses.value import ValueLoss


def twin(inputs: LossInputs, clip: float | None, values: np.ndarray) -> np.ndarray:
    losses = np.zeros(len(values))
    for t in np.flatnonzero(inputs.mask):
        old, target = inputs.old_values[t].item(), inputs.returns[t].item()
        losses[t] = (values[t] - target) ** 2 / 2
        if clip is not None:
            losses[t] = max(losses[t], (min(max(values[t], old - clip), old + clip) - target) ** 2 / 2)
    return losses


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), clip=st.sampled_from([None, 0.2, 1.0]))
def test_loss_and_gradient_equal_the_twins(
    ragged: Callable[[int], LossInputs], numeric_gradient: Callable[..., np.ndarray], seed: int, clip: float | None
) -> None:
    inputs = ragged(seed)
    loss, _ = ValueLoss(clip)(inputs)
    loss.sum().backward()
    x = inputs.values.detach().numpy()
    np.testing.assert_allclose(loss.detach(), twin(inputs, clip, x), atol=1e-12)
    expected = numeric_gradient(lambda moved: twin(inputs, clip, moved).sum(), x)
    np.testing.assert_allclose(inputs.values.grad, expected, atol=1e-6)


@pytest.mark.parametrize(("value", "loss", "gradient", "clipped"), [(0.1, 0.405, -0.9, 0), (0.5, 0.32, 0.0, 1)])
def test_a_value_that_moved_far_enough_towards_its_return_is_left_alone(
    make_inputs: Callable[..., LossInputs], value: float, loss: float, gradient: float, clipped: int
) -> None:
    one = {"values": value, "old_values": 0.0, "returns": 1.0}
    tensors = {name: torch.tensor([x], dtype=torch.float64, requires_grad=name == "values") for name, x in one.items()}
    inputs = replace(make_inputs([-1.0]), **tensors)
    losses, stats = ValueLoss(0.2)(inputs)
    losses.sum().backward()
    assert losses.item() == pytest.approx(loss)
    assert inputs.values.grad.item() == pytest.approx(gradient)
    assert stats["value_clip_frac"].item() == clipped
