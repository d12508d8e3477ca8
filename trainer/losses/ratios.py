"""Probability ratios from log-probs, bounded so that they are finite whatever two models think of a token."""

from torch import Tensor

_MAX_LOG_RATIO = 20.0
"""exp(20) is past every clip and cap that makes sense, and exp never overflows into inf * 0."""


def log_ratio(numerator: Tensor, denominator: Tensor, mask: Tensor) -> Tensor:
    """[T] numerator - denominator, within ±20 nats; 0 off the mask. No gradient where the bound holds."""
    return bounded(numerator - denominator).masked_fill(~mask, 0.0)


def bounded(log_ratios: Tensor) -> Tensor:
    """The same within ±20 nats."""
    return log_ratios.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
