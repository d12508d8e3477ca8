"""Losses per token: pure functions of named tensors. The denominator (global loss tokens) is the caller's matter.

All tensors have one shape (or broadcast to it); log-probs are of the sampled tokens. Statistics are sums over the
mask, so that micro-batches and ranks add up, except those named `*_max`.
"""

from torch import Tensor

_MAX_LOG_RATIO = 20.0
"""exp(20) is past every clip and cap that makes sense, and exp never overflows into inf * 0."""


def dapo_loss(
    logprobs: Tensor,
    proximal: Tensor,
    behaviour: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float,
    clip_high: float,
    tis_cap: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped policy-gradient loss per token (0 off the mask) and its statistics.

    The surrogate is DAPO's (2503.14476, eq. 8): -min(r·A, clip(r, 1 - clip_low, 1 + clip_high)·A) with
    r = exp(logprobs - proximal). Because engine and learner never agree exactly and rollouts may be stale, each token
    is weighted by the truncated importance weight min(exp(proximal - behaviour), tis_cap), as in decoupled PPO (AReaL
    2505.24298, section 5.2) with the weight capped above only. Weight and proximal carry no gradient.
    Left out on purpose: the KL term (DAPO drops it), the dual clip, the overlong penalty (a matter of rewards).
    """
    log_ratio = (logprobs - proximal.detach()).masked_fill(~mask, 0.0).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    mismatch = (proximal - behaviour).detach().masked_fill(~mask, 0.0)
    ratio = log_ratio.exp()
    advantages = advantages * mask
    weight = mismatch.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp().clamp(max=tis_cap)
    surrogate = (ratio * advantages).minimum(ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    outside = ((ratio > 1 + clip_high) & (advantages > 0)) | ((ratio < 1 - clip_low) & (advantages < 0))
    stats = {
        "clip_frac": outside.sum(),
        "tis_weight_mean": (weight * mask).sum(),
        "tis_capped_frac": ((weight >= tis_cap) & mask).sum(),
        "mismatch_kl": k3(mismatch).sum(),
        "mismatch_max": mismatch.abs().max(),
    }
    return -surrogate * weight, stats


def nll_loss(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood per token, 0 off the mask."""
    return -logprobs.masked_fill(~mask, 0.0)


def k3(log_ratio: Tensor) -> Tensor:
    """Schulman's k3 = r - 1 - log r, never negative: for samples of q and r = p/q its mean estimates KL(q‖p)."""
    bounded = log_ratio.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return bounded.expm1() - bounded
