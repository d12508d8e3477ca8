"""Log-probs of given tokens from hidden states and the output head, in chunks: [tokens, vocabulary] never exists whole.

z = scale · h Wᵀ with scale = 1 / temperature, log p = z - logsumexp(z), H = -Σ p log p. The forward pass keeps the last
chunk's log p, which for a small vocabulary is all; the backward pass computes the others again and adds up

    ∂ log p(y) / ∂z = onehot(y) - p        ∂H / ∂z = -p (log p + H)

so that two [chunk, vocabulary] buffers are all the memory it needs besides the gradients.
"""

from typing import Any, Literal

import torch
from torch import Tensor

Entropy = Literal["none", "value", "gradient"]
"""What is asked about entropies: nothing (they are 0), what they are, or also their gradient."""

LOGITS_PER_CHUNK = 1 << 26
"""256 MiB of float32 logits at a time: rows enough that adding up the [V, d] gradient does not dominate."""


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
        every = None
        for i in range(0, len(targets), rows):
            part = slice(i, i + rows)
            every = None  # gone before the next one is made
            every = _all_logprobs(hidden[part], weight, scale)
            logprobs[part] = every.gather(-1, targets[part, None]).squeeze(-1)
            if entropy != "none":
                entropies[part] = -torch.linalg.vecdot(every.exp(), every)
        ctx.save_for_backward(hidden, weight, targets, entropies)
        ctx.scale, ctx.rows, ctx.entropy_gradient = scale, rows, entropy == "gradient"
        ctx.last = every
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
        every, ctx.last = ctx.last, None  # it is overwritten: a second backward pass computes it again
        for i in reversed(range(0, len(targets), ctx.rows)):
            part = slice(i, i + ctx.rows)
            if every is None:
                every = _all_logprobs(hidden[part], weight, ctx.scale)
            if ctx.entropy_gradient:
                inner = every.add(entropies[part, None]).mul_(-d_entropies[part]).sub_(d_logprobs[part])
                d_logits = every.exp_().mul_(inner)  # p · (-g_H (log p + H) - g)
            else:
                d_logits = every.exp_().mul_(-d_logprobs[part])
            d_logits.scatter_add_(-1, targets[part, None], d_logprobs[part])
            d_logits, every = d_logits.to(weight.dtype), None
            torch.mm(d_logits, weight, out=d_hidden[part])
            if d_weight is not None and d_logits.dtype == torch.float32:
                d_weight.addmm_(d_logits.T, hidden[part])
            elif d_weight is not None:
                d_weight += d_logits.T @ hidden[part]
            del d_logits  # gone before the next one is made
        return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), None, None, None, None


def _all_logprobs(hidden: Tensor, weight: Tensor, scale: float) -> Tensor:
    """[rows, V] float32."""
    logits = (hidden @ weight.T).float()
    return (logits if scale == 1 else logits.mul_(scale)).log_softmax(-1)
