import math

import pytest
import torch

from trainer.logprobs import Entropy, token_logprobs


def whole(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies from the whole matrix of logits."""
    logs = (scale * hidden @ weight.T).log_softmax(-1)
    return logs.gather(-1, targets[:, None]).squeeze(-1), -(logs.exp() * logs).sum(-1)


@pytest.mark.parametrize("entropy", ["value", "gradient"])
@pytest.mark.parametrize("scale", [1.0, 1 / 0.6])
@pytest.mark.parametrize("logits_per_chunk", [1, 21 * 5, 10**6])
def test_chunks_equal_the_whole_softmax_in_value_and_gradient(
    logits_per_chunk: int, scale: float, entropy: Entropy
) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(24, 8, generator=generator, requires_grad=True)
    weight = torch.randn(21, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 21, (24,), generator=generator)
    a, b = torch.randn(2, 24, generator=generator)
    logprobs, entropies = token_logprobs(hidden, weight, targets, scale, entropy, logits_per_chunk)
    wanted, wanted_entropies = whole(hidden, weight, targets, scale)
    torch.testing.assert_close(logprobs, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies, wanted_entropies, atol=1e-5, rtol=1e-5)
    assert entropies.requires_grad == (entropy == "gradient")
    loss, wanted_loss = (logprobs * a).sum(), (wanted * a).sum()
    if entropy == "gradient":
        loss, wanted_loss = loss + (entropies * b).sum(), wanted_loss + (wanted_entropies * b).sum()
    got = torch.autograd.grad(loss, (hidden, weight))
    for gradient, expected in zip(got, torch.autograd.grad(wanted_loss, (hidden, weight)), strict=True):
        torch.testing.assert_close(gradient, expected, atol=2e-5, rtol=1e-4)


def test_a_uniform_policy_has_log_prob_and_entropy_of_its_vocabulary() -> None:
    logprobs, entropies = token_logprobs(torch.zeros(3, 4), torch.randn(50, 4), torch.tensor([0, 7, 49]), 1.0)
    torch.testing.assert_close(logprobs, torch.full((3,), -math.log(50)))
    torch.testing.assert_close(entropies, torch.full((3,), math.log(50)))


def test_huge_logits_stay_finite() -> None:
    hidden, weight = torch.full((1, 1), 1e4, requires_grad=True), torch.tensor([[1.0], [-1.0]])
    logprobs, entropies = token_logprobs(hidden, weight, torch.tensor([1]), 1.0)
    assert logprobs.item() == pytest.approx(-2e4)
    assert entropies.item() == pytest.approx(0)
    (gradient,) = torch.autograd.grad(logprobs.sum(), hidden)
    assert gradient.item() == pytest.approx(-2)


def test_a_repeated_backward_pass_gives_the_same_gradient() -> None:
    hidden, weight = torch.randn(6, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    logprobs, _ = token_logprobs(hidden, weight, torch.arange(6), 1.0, logits_per_chunk=9 * 4)
    first = torch.autograd.grad(logprobs.sum(), (hidden, weight), retain_graph=True)
    for again, before in zip(torch.autograd.grad(logprobs.sum(), (hidden, weight)), first, strict=True):
        torch.testing.assert_close(again, before)
