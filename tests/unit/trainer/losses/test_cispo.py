import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.losses.cispo import CISPOLoss
from trainer.losses.importance import ImportanceSampling
from trainer.losses.inputs import LossInputs
from trainer.losses.ppo import PPOLoss

NONE = ImportanceSampling("none")


def gradient(term: CISPOLoss | PPOLoss, inputs: LossInputs) -> list[float]:
    return torch.autograd.grad(term(inputs)[0].sum(), inputs.logprobs)[0].tolist()


def test_every_token_keeps_a_bounded_gradient(make_inputs: Callable[..., LossInputs]) -> None:
    inputs = make_inputs(np.log([0.1, 0.9, 1.2, 5.0]).tolist(), proximal=[0.0] * 4)
    assert gradient(CISPOLoss(0.2, 0.28, NONE), inputs) == pytest.approx([-0.8, -0.9, -1.2, -1.28])


def test_one_disables_the_lower_side(make_inputs: Callable[..., LossInputs]) -> None:
    inputs = make_inputs([math.log(1e-6)], proximal=[0.0])
    loss, stats = CISPOLoss(importance=NONE)(inputs)
    assert stats["clip_frac"].item() == 0
    assert loss.item() == pytest.approx(-1e-6 * math.log(1e-6))


def test_inside_the_clip_the_gradient_is_that_of_ppo(make_inputs: Callable[..., LossInputs]) -> None:
    inputs = make_inputs(np.log([0.85, 1.0, 1.25]).tolist(), [-0.3] * 3, [0.0] * 3, [1.0, -2.0, 0.5])
    assert gradient(CISPOLoss(0.2, 0.28), inputs) == pytest.approx(gradient(PPOLoss(0.2, 0.28), inputs))


def twin(inputs: LossInputs, term: CISPOLoss, coefficient_at: np.ndarray, logprobs: np.ndarray) -> np.ndarray:
    losses = np.zeros(len(logprobs))
    for t in np.flatnonzero(inputs.mask):
        proximal = inputs.proximal[t].item()
        bounded = min(max(math.exp(coefficient_at[t] - proximal), 1 - term.clip_low), 1 + term.clip_high)
        weight = min(math.exp(proximal - inputs.behaviour[t].item()), term.importance.cap)
        losses[t] = -weight * bounded * inputs.advantages[t].item() * logprobs[t]
    return losses


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), clip_low=st.sampled_from([0.1, 1.0]))
def test_loss_and_gradient_equal_the_twins(
    ragged: Callable[[int], LossInputs], numeric_gradient: Callable[..., np.ndarray], seed: int, clip_low: float
) -> None:
    inputs, term = ragged(seed), CISPOLoss(clip_low, 0.1)
    x = inputs.logprobs.detach().numpy()
    np.testing.assert_allclose(term(inputs)[0].detach(), twin(inputs, term, x, x), atol=1e-12)
    expected = numeric_gradient(lambda moved: twin(inputs, term, x, moved).sum(), x)
    np.testing.assert_allclose(gradient(term, inputs), expected, atol=1e-6)
