import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from trainer.losses.inputs import LossInputs
from trainer.losses.kl import KLLoss, k1, k2, k3
from trainer.losses.options import KLEstimator

REFERENCE = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
LOGITS = torch.tensor([0.7, -0.2, 0.1, -1.0], dtype=torch.float64)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def gradient_of(objective: Tensor, logits: Tensor) -> list[float]:
    return torch.autograd.grad(objective, logits)[0].tolist()


def expected_gradient(make_inputs: Callable[..., LossInputs], estimator: KLEstimator) -> list[float]:
    """Over one token sampled from the policy: every token of the vocabulary, weighted by its probability."""
    logits = LOGITS.clone().requires_grad_()
    policy = logits.softmax(0)
    inputs = replace(make_inputs([0.0] * 4), logprobs=policy.log(), reference=REFERENCE.log())
    return gradient_of((policy.detach() * KLLoss(estimator)(inputs)[0]).sum(), logits)


def test_k3_known_value_and_sign() -> None:
    assert k3(torch.tensor(0.1, dtype=torch.float64)).item() == pytest.approx(0.005171, abs=1e-6)
    assert k3(torch.tensor(0.0)).item() == 0
    assert (k3(torch.linspace(-3, 3, 101)) >= 0).all()
    assert math.isfinite(k3(torch.tensor(500.0)).item())


def test_k1_and_k3_are_unbiased_estimates_and_k2_is_one_near_the_reference() -> None:
    policy = LOGITS.softmax(0)
    log_ratios = (REFERENCE / policy).log()
    exact = divergence(policy, REFERENCE).item()
    assert (policy * k1(log_ratios)).sum().item() == pytest.approx(exact)
    assert (policy * k3(log_ratios)).sum().item() == pytest.approx(exact)
    near = 0.99 * policy + 0.01 * REFERENCE
    assert (policy * k2((near / policy).log())).sum().item() == pytest.approx(divergence(policy, near).item(), rel=0.02)


def test_as_a_loss_k2_has_the_gradient_of_the_divergence(make_inputs: Callable[..., LossInputs]) -> None:
    logits = LOGITS.clone().requires_grad_()
    exact = gradient_of(divergence(logits.softmax(0), REFERENCE), logits)
    assert expected_gradient(make_inputs, "k2") == pytest.approx(exact)


def test_as_a_loss_k3_has_the_gradient_of_the_opposite_divergence(make_inputs: Callable[..., LossInputs]) -> None:
    logits = LOGITS.clone().requires_grad_()
    opposite = gradient_of(divergence(REFERENCE, logits.softmax(0)), logits)
    assert expected_gradient(make_inputs, "k3") == pytest.approx(opposite)


def test_as_a_loss_k1_has_no_gradient_in_expectation(make_inputs: Callable[..., LossInputs]) -> None:
    assert expected_gradient(make_inputs, "k1") == pytest.approx([0.0] * 4, abs=1e-12)


def test_the_loss_is_the_estimator_on_the_mask_and_k3_the_statistic(make_inputs: Callable[..., LossInputs]) -> None:
    reference = torch.tensor([-0.9, -5.0], dtype=torch.float64)
    inputs = replace(make_inputs([-1.0, -1.0], mask=[True, False]), reference=reference)
    values: dict[KLEstimator, float] = {"k1": -0.1, "k2": 0.005, "k3": 0.005171}
    for estimator, value in values.items():
        loss, stats = KLLoss(estimator)(inputs)
        assert loss.tolist() == pytest.approx([value, 0.0], abs=1e-6)
        assert stats["reference_kl"].item() == pytest.approx(0.005171, abs=1e-6)
