"""The policy: a causal language model that answers with log-probs of given tokens, never with logits.

The wrapper is the FSDP root, so hidden states and output head belong to one forward pass. It refuses to hold
[tokens, vocabulary] whole: the head runs in chunks that are recomputed in the backward pass.
"""

import importlib

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_LOGITS_PER_CHUNK = 1 << 25
"""128 MiB of float32 logits at a time."""


class Policy(nn.Module):
    """Log-probs and entropies of a causal language model."""

    def __init__(self, lm: nn.Module, logits_per_chunk: int = _LOGITS_PER_CHUNK) -> None:
        super().__init__()
        self.lm = lm
        self._logits_per_chunk = logits_per_chunk

    def forward(self, input_ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """[b, T] token ids to two float32 [b, T]: log-prob of token t given those before it, and entropy (no gradient).

        Both are of softmax(logits / temperature), the distribution that was sampled from; 0 at position 0. Rows may be
        padded on the right: causal attention keeps padding from what precedes it.
        """
        hidden = self.lm.model(input_ids=input_ids, use_cache=False).last_hidden_state
        context = hidden[:, :-1].flatten(0, 1)
        targets = input_ids[:, 1:].flatten()
        rows = max(1, self._logits_per_chunk // self.lm.config.vocab_size)
        if len(targets) <= rows:
            pieces = [self._head(context, targets, temperature)]
        else:
            pieces = [
                checkpoint(self._head, context[i : i + rows], targets[i : i + rows], temperature, use_reentrant=False)
                for i in range(0, len(targets), rows)
            ]
        logprobs, entropies = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        shape = (input_ids.shape[0], input_ids.shape[1] - 1)
        return tuple(nn.functional.pad(x.view(shape), (1, 0)) for x in (logprobs, entropies))

    def _head(self, context: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """[n, d] and [n] to [n] log-probs and [n] entropies, in float32."""
        all_logprobs = (self.lm.lm_head(context).float() / temperature).log_softmax(-1)
        with torch.no_grad():
            entropies = -(all_logprobs.exp() * all_logprobs).sum(-1)
        return all_logprobs.gather(-1, targets[:, None]).squeeze(-1), entropies


def choose_attention(asked: str, compute_dtype: str, device: torch.device) -> str:
    """`flash_attention_2` or `sdpa`: what was asked for, or for `auto` the faster one that runs here."""
    hindrance = _flash_hindrance(compute_dtype, device)
    if asked == "flash_attention_2" and hindrance:
        raise ValueError(f"attention flash_attention_2 cannot run here: {hindrance}; use auto or sdpa")
    if asked == "auto":
        return "sdpa" if hindrance else "flash_attention_2"
    return asked


def _flash_hindrance(compute_dtype: str, device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"it needs a CUDA device, got {device.type}"
    if compute_dtype == "float32":
        return "it computes in bfloat16, got compute_dtype float32"
    try:
        importlib.import_module("flash_attn")
    except ImportError as error:
        return f"flash-attn does not import ({error}); install rloop[flash-attn]"
    return None
