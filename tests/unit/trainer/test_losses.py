import math

import pytest
import torch
from torch import Tensor

from trainer.losses import dapo_loss, k3, nll_loss


def dapo(
    ratios: list[float], advantages: list[float], weights: list[float] | None = None, mask: list[bool] | None = None
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Loss, statistics and log-probs for given ratios and importance weights."""
    proximal = torch.full((len(ratios),), -1.0, dtype=torch.float64)
    logprobs = (proximal + torch.tensor(ratios, dtype=torch.float64).log()).requires_grad_()
    behaviour = proximal - torch.tensor(weights or [1.0] * len(ratios), dtype=torch.float64).log()
    keep = torch.tensor(mask or [True] * len(ratios))
    given = torch.tensor(advantages, dtype=torch.float64)
    loss, stats = dapo_loss(logprobs, proximal, behaviour, given, keep, 0.2, 0.28, 2.0)
    return loss, stats, logprobs


def test_the_clip_table() -> None:
    loss, stats, _ = dapo([0.7, 1.1, 1.25, 1.5, 4.0], [1.0] * 5)
    torch.testing.assert_close(loss.tolist(), [-0.7, -1.1, -1.25, -1.28, -1.28])
    assert stats["clip_frac"].item() == 2
    loss, stats, _ = dapo([0.7, 1.1, 1.5], [-1.0] * 3)
    torch.testing.assert_close(loss.tolist(), [0.8, 1.1, 1.5])
    assert stats["clip_frac"].item() == 1


def test_at_the_old_policy_loss_and_gradient_are_reinforce() -> None:
    loss, _, logprobs = dapo([1.0, 1.0, 1.0], [0.5, -2.0, 1.0])
    loss.sum().backward()
    assert loss.tolist() == [-0.5, 2.0, -1.0]
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-0.5, 2.0, -1.0]


def test_importance_weights_are_truncated_and_carry_no_gradient() -> None:
    loss, stats, logprobs = dapo([1.0, 1.0, 1.0], [1.0] * 3, weights=[0.4, 1.0, 2.5])
    torch.testing.assert_close(loss.tolist(), [-0.4, -1.0, -2.0])
    assert stats["tis_weight_mean"].item() == pytest.approx(3.4)
    assert stats["tis_capped_frac"].item() == 1
    loss.sum().backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad.tolist(), [-0.4, -1.0, -2.0])


def test_unclipped_weight_times_ratio_is_policy_over_behaviour() -> None:
    # decoupled PPO with pi_b = .2, pi_prox = .25, pi = .3
    loss, _, _ = dapo([1.2], [1.0], weights=[1.25])
    assert loss.item() == pytest.approx(-0.3 / 0.2)


def test_tokens_off_the_mask_count_for_nothing() -> None:
    loss, stats, logprobs = dapo([1.0, 9.0], [1.0, 1.0], weights=[1.0, 8.0], mask=[True, False])
    loss.sum().backward()
    assert loss.tolist() == [-1.0, 0.0]
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-1.0, 0.0]
    assert {name: value.item() for name, value in stats.items()} == {
        "clip_frac": 0,
        "tis_weight_mean": 1,
        "tis_capped_frac": 0,
        "mismatch_kl": 0,
        "mismatch_max": 0,
    }


def test_absurd_ratios_stay_finite() -> None:
    loss, _, _ = dapo([math.exp(300.0)], [-1.0])
    assert math.isfinite(loss.item())


def test_k3_known_value_and_sign() -> None:
    assert k3(torch.tensor(0.1, dtype=torch.float64)).item() == pytest.approx(0.005171, abs=1e-6)
    assert k3(torch.tensor(0.0)).item() == 0
    assert (k3(torch.linspace(-3, 3, 101)) >= 0).all()


def test_nll_is_minus_log_prob_on_the_mask() -> None:
    assert nll_loss(torch.tensor([-1.0, -2.0]), torch.tensor([False, True])).tolist() == [0.0, 2.0]
