"""Log-probs of given tokens from hidden states and the output head, in chunks: [tokens, vocabulary] never exists whole.

z = scale · h Wᵀ with scale = 1 / temperature, log p = z - logsumexp(z), H = -Σ p log p. The forward pass keeps the last
chunk's p, which for a small vocabulary is all; the backward pass computes the others again and adds up

    ∂ log p(y) / ∂z = onehot(y) - p        ∂H / ∂z = -p (log p + H)

so that two [chunk, vocabulary] buffers (on CPUs one) are all the memory it needs besides the gradients.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from trainer.memory import LOGITS_PER_CHUNK

Entropy = Literal["none", "value", "gradient"]
"""What is asked about entropies: nothing (they are 0), what they are, or also their gradient."""

_LOGITS_PER_BLOCK = 1 << 20


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    scale: float,
    entropy: Entropy = "value",
    logits_per_chunk: int = LOGITS_PER_CHUNK,
) -> tuple[Tensor, Tensor]:
    """[n] log-probs of the targets and [n] entropies, both float32.

    Args:
        hidden: [n, d] hidden states that predict the targets.
        weight: [V, d] output head.
        targets: [n] int64 tokens.
        scale: Factor of the logits: 1 / temperature, times the model's own if it has one.
        entropy: Whether entropies are computed, and carry a gradient.
        logits_per_chunk: Upper bound of chunk × V.
    """
    rows = max(1, logits_per_chunk // len(weight))
    logprobs, entropies = _ChunkedLogprobs.apply(hidden, weight, targets, scale, rows, entropy)
    return logprobs, entropies


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: float, rows: int, entropy: Entropy
    ) -> tuple[Tensor, Tensor]:
        logprobs, entropies = (torch.zeros(len(targets), device=hidden.device) for _ in range(2))
        p = None
        for part in _slices(len(targets), rows):
            p = None  # gone before the next one is made
            p = _logits(hidden[part], weight, scale)
            _normalise(p, targets[part], logprobs[part], None if entropy == "none" else entropies[part])
        ctx.save_for_backward(hidden, weight, targets, entropies)
        ctx.scale, ctx.rows, ctx.entropy_gradient = scale, rows, entropy == "gradient"
        ctx.last = p
        if not ctx.entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        d_logprobs, d_entropies = (ctx.scale * gradient[:, None] for gradient in gradients)
        hidden, weight, targets, entropies = ctx.saved_tensors
        d_hidden = torch.empty_like(hidden)
        d_weight = None
        if ctx.needs_input_grad[1]:  # the head may be frozen
            d_weight = torch.zeros_like(weight, dtype=torch.float32)  # many chunks add up: not in bfloat16
        p, ctx.last = ctx.last, None  # it is overwritten: a second backward pass computes it again
        for part in reversed(_slices(len(targets), ctx.rows)):
            if p is None:
                p = _logits(hidden[part], weight, ctx.scale)
                _normalise(p, targets[part])
            if ctx.entropy_gradient:
                _times_slope_of_both(p, entropies[part, None], d_logprobs[part], d_entropies[part])
            else:
                p.mul_(-d_logprobs[part])
            p.scatter_add_(-1, targets[part, None], d_logprobs[part])
            d_logits, p = p.to(weight.dtype), None
            torch.mm(d_logits, weight, out=d_hidden[part])
            if d_weight is not None and d_logits.dtype == torch.float32:
                d_weight.addmm_(d_logits.T, hidden[part])
            elif d_weight is not None:
                d_weight += d_logits.T @ hidden[part]
            del d_logits  # gone before the next one is made
        return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), None, None, None, None


def _slices(count: int, size: int) -> list[slice]:
    return [slice(i, i + size) for i in range(0, count, size)]


def _logits(hidden: Tensor, weight: Tensor, scale: float) -> Tensor:
    """[rows, V] float32."""
    logits = (hidden @ weight.T).float()
    return logits if scale == 1 else logits.mul_(scale)


def _blocks(chunk: Tensor) -> list[slice]:
    """Rows of a chunk that are worked on together: on CPUs few, so that what they need beside it stays in the cache."""
    return _slices(len(chunk), len(chunk) if chunk.is_cuda else max(1, _LOGITS_PER_BLOCK // chunk.shape[1]))


def _normalise(
    logits: Tensor, targets: Tensor, logprobs: Tensor | None = None, entropies: Tensor | None = None
) -> None:
    """Turn a chunk's logits into probabilities, in place; fill its log-probs and entropies where they are asked for."""
    for rows in _blocks(logits):
        every = logits[rows].log_softmax(-1)
        p = torch.exp(every, out=logits[rows])
        if logprobs is not None:
            logprobs[rows] = every.gather(-1, targets[rows, None]).squeeze(-1)
        if entropies is not None:
            entropies[rows] = -torch.linalg.vecdot(p, every)


def _times_slope_of_both(p: Tensor, entropies: Tensor, d_logprobs: Tensor, d_entropies: Tensor) -> None:
    """p ← -p (g_H (log p + H) + g), in place; 0 where p is."""
    for rows in _blocks(p):
        p_log_p = torch.special.xlogy(p[rows], p[rows])
        p[rows].mul_(-(d_logprobs[rows] + d_entropies[rows] * entropies[rows])).addcmul_(
            p_log_p, d_entropies[rows], value=-1
        )
