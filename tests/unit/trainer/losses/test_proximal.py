import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.losses.proximal import linear_proximal, loglinear_proximal

POLICY = torch.tensor([0.2, 0.9], dtype=torch.float64).log().requires_grad_()
BEHAVIOUR = torch.tensor([0.3, 0.1], dtype=torch.float64).log()


def test_half_way_between_probabilities_point_2_and_point_3() -> None:
    assert loglinear_proximal(POLICY, BEHAVIOUR, 0.5)[0].exp().item() == pytest.approx(0.24495, abs=1e-5)
    assert linear_proximal(POLICY, BEHAVIOUR, 0.5)[0].exp().item() == pytest.approx(0.25)


@pytest.mark.parametrize("approximate", [loglinear_proximal, linear_proximal])
def test_the_ends_are_exactly_the_two_policies_and_carry_no_gradient(
    approximate: Callable[[Tensor, Tensor, float], Tensor],
) -> None:
    assert approximate(POLICY, BEHAVIOUR, 1.0).tolist() == POLICY.tolist()
    assert approximate(POLICY, BEHAVIOUR, 0.0).tolist() == BEHAVIOUR.tolist()
    assert not approximate(POLICY, BEHAVIOUR, 0.3).requires_grad


@settings(max_examples=30)
@given(policy=st.floats(1e-6, 1), behaviour=st.floats(1e-6, 1), alpha=st.floats(0, 1))
def test_both_equal_the_means_they_are_named_after(policy: float, behaviour: float, alpha: float) -> None:
    logs = [torch.tensor([p], dtype=torch.float64).log() for p in (policy, behaviour)]
    geometric, arithmetic = (f(*logs, alpha).exp().item() for f in (loglinear_proximal, linear_proximal))
    assert geometric == pytest.approx(math.pow(policy, alpha) * math.pow(behaviour, 1 - alpha))
    assert arithmetic == pytest.approx(alpha * policy + (1 - alpha) * behaviour)


def test_the_linear_one_stands_probabilities_that_underflow() -> None:
    far = torch.tensor([-500.0])
    assert linear_proximal(far, far - 1.0, 0.5).item() == pytest.approx(-500 + math.log((1 + math.exp(-1)) / 2))
