import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.losses.importance import ImportanceSampling
from trainer.losses.inputs import LossInputs
from trainer.losses.ppo import PPOLoss

NONE = ImportanceSampling("none")


def at_ratios(make_inputs: Callable[..., LossInputs], ratios: list[float], advantage: float) -> LossInputs:
    return make_inputs(np.log(ratios).tolist(), proximal=[0.0] * len(ratios), advantages=[advantage] * len(ratios))


def test_the_clip_table(make_inputs: Callable[..., LossInputs]) -> None:
    good = at_ratios(make_inputs, [0.7, 1.1, 1.25, 1.5, 4.0], 1.0)
    loss, stats = PPOLoss()(good)
    assert loss.tolist() == pytest.approx([-0.7, -1.1, -1.25, -1.28, -1.28])
    assert stats["clip_frac"].item() == 2
    bad = at_ratios(make_inputs, [0.7, 1.1, 1.5, 4.0], -1.0)
    loss, stats = PPOLoss()(bad)
    assert loss.tolist() == pytest.approx([0.8, 1.1, 1.5, 4.0])
    assert stats["clip_frac"].item() == 1


def test_the_dual_clip_bounds_bad_tokens_and_no_others(make_inputs: Callable[..., LossInputs]) -> None:
    loss, stats = PPOLoss(dual_clip=3.0)(at_ratios(make_inputs, [0.7, 1.1, 1.5, 4.0], -1.0))
    assert loss.tolist() == pytest.approx([0.8, 1.1, 1.5, 3.0])
    assert stats["dual_clip_frac"].item() == 1
    loss, stats = PPOLoss(dual_clip=3.0)(at_ratios(make_inputs, [0.7, 4.0], 1.0))
    assert loss.tolist() == pytest.approx([-0.7, -1.28])
    assert stats["dual_clip_frac"].item() == 0


def test_at_the_old_policy_loss_and_gradient_are_those_of_reinforce(make_inputs: Callable[..., LossInputs]) -> None:
    inputs = make_inputs([-1.0, -2.0, -3.0], advantages=[0.5, -2.0, 1.0])
    loss, _ = PPOLoss()(inputs)
    loss.sum().backward()
    assert loss.tolist() == [-0.5, 2.0, -1.0]
    assert inputs.logprobs.grad.tolist() == [-0.5, 2.0, -1.0]


def decoupled(make_inputs: Callable[..., LossInputs], behaviour: float, proximal: float, policy: float) -> LossInputs:
    return make_inputs([math.log(policy)], [math.log(behaviour)], [math.log(proximal)])


def test_decoupled_ppo_unclipped_is_policy_over_behaviour(make_inputs: Callable[..., LossInputs]) -> None:
    loss, stats = PPOLoss()(decoupled(make_inputs, 0.2, 0.25, 0.3))
    assert loss.item() == pytest.approx(-1.5)
    assert stats["is_weight_mean"].item() == pytest.approx(1.25)


def test_decoupled_ppo_is_plain_where_proximal_and_behaviour_agree(make_inputs: Callable[..., LossInputs]) -> None:
    loss, _ = PPOLoss()(decoupled(make_inputs, 0.2, 0.2, 0.3))
    assert loss.item() == pytest.approx(-1.28)


def test_decoupled_ppo_is_the_weighted_advantage_where_proximal_is_the_policy(
    make_inputs: Callable[..., LossInputs],
) -> None:
    inputs = decoupled(make_inputs, 0.2, 0.3, 0.3)
    loss, _ = PPOLoss()(inputs)
    loss.sum().backward()
    assert loss.item() == pytest.approx(-1.5)
    assert inputs.logprobs.grad.item() == pytest.approx(-1.5)


def test_absurd_ratios_stay_finite(make_inputs: Callable[..., LossInputs]) -> None:
    inputs = make_inputs([0.0, -400.0], [-400.0, 0.0], [-400.0, 0.0], [-1.0, -1.0])
    loss, stats = PPOLoss()(inputs)
    loss.sum().backward()
    assert all(torch.isfinite(x).all() for x in (loss, inputs.logprobs.grad, *stats.values()))


def twin(inputs: LossInputs, term: PPOLoss, logprobs: np.ndarray) -> np.ndarray:
    losses = np.zeros(len(logprobs))
    for t in np.flatnonzero(inputs.mask):
        advantage, proximal = inputs.advantages[t].item(), inputs.proximal[t].item()
        ratio = math.exp(logprobs[t] - proximal)
        clipped = min(max(ratio, 1 - term.clip_low), 1 + term.clip_high)
        objective = min(ratio * advantage, clipped * advantage)
        if term.dual_clip is not None and advantage < 0:
            objective = max(objective, term.dual_clip * advantage)
        losses[t] = -min(math.exp(proximal - inputs.behaviour[t].item()), term.importance.cap) * objective
    return losses


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), dual_clip=st.sampled_from([None, 1.4]))
def test_loss_and_gradient_equal_the_twins(
    ragged: Callable[[int], LossInputs], numeric_gradient: Callable[..., np.ndarray], seed: int, dual_clip: float | None
) -> None:
    inputs, term = ragged(seed), PPOLoss(dual_clip=dual_clip, importance=ImportanceSampling("tis", cap=1.3))
    loss, _ = term(inputs)
    loss.sum().backward()
    x = inputs.logprobs.detach().numpy()
    np.testing.assert_allclose(loss.detach(), twin(inputs, term, x), atol=1e-12)
    expected = numeric_gradient(lambda moved: twin(inputs, term, moved).sum(), x)
    np.testing.assert_allclose(inputs.logprobs.grad, expected, atol=1e-6)


def test_clip_fraction_counts_tokens_without_gradient(ragged: Callable[[int], LossInputs]) -> None:
    inputs = ragged(3)
    inputs = replace(inputs, logprobs=(inputs.logprobs * 1.5).detach().requires_grad_())
    loss, stats = PPOLoss(importance=NONE)(inputs)
    loss.sum().backward()
    without = (inputs.logprobs.grad == 0) & inputs.mask
    assert 0 < stats["clip_frac"].item() == without.sum().item() < inputs.mask.sum().item()
