"""The proximal policy of decoupled PPO without a forward pass of its own: between the behaviour and the policy.

Decoupled PPO (AReaL 2505.24298, section 5.2) clips relative to a recent policy, not to the one that sampled. That
policy's log-probs are either recomputed before the first update of a batch, or approximated here from two that are
at hand. Both functions take log-probs [T] and a share `alpha` in [0, 1] of the policy in training, and return [T]
without gradient; alpha = 1 is exactly the policy, alpha = 0 exactly the behaviour.
"""

import torch
from torch import Tensor


def loglinear_proximal(logprobs: Tensor, behaviour: Tensor, alpha: float) -> Tensor:
    """[T] α·log π_θ + (1 - α)·log π_b: the geometric mean of the probabilities (AReaL's approximation)."""
    return torch.lerp(behaviour, logprobs.detach(), alpha)


def linear_proximal(logprobs: Tensor, behaviour: Tensor, alpha: float) -> Tensor:
    """[T] log(α·π_θ + (1 - α)·π_b): the arithmetic mean of the probabilities, never below the geometric one."""
    log_shares = torch.tensor([alpha, 1.0 - alpha], dtype=logprobs.dtype, device=logprobs.device).log()
    return torch.logaddexp(logprobs.detach() + log_shares[0], behaviour + log_shares[1])
