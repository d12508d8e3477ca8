"""How much arithmetic training takes, and which part of a GPU's peak it reaches (MFU)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PretrainedConfig

# Dense bfloat16 tensor-core peaks of NVIDIA's data sheets, FLOP/s, by a word of the device's name.
_PEAKS = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "H20": 148e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs of training on one token, as a function of its sequence's length."""

    per_token: float
    """6 × parameters that a token passes through: 2 forward, 4 backward (2 where they are frozen)."""
    per_token_and_length: float
    """6 × layers × attention width: QKᵀ and the weighted sum, over the half of the positions that causality leaves."""

    @classmethod
    def of(cls, config: PretrainedConfig, parameters: int, frozen: bool = False) -> "Work":
        """PaLM 2204.02311, appendix B: 6 N + 12 L H Q T per token, here with T / 2 for causal attention.

        Args:
            config: Of the model.
            parameters: N, without experts that a token is not routed to.
            frozen: They have no gradients, as with adapters, whose own share is left out.
        """
        text = config.get_text_config()
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            (4.0 if frozen else 6.0) * parameters, 6.0 * text.num_hidden_layers * text.num_attention_heads * head_dim
        )

    def of_batch(self, lengths: Sequence[int]) -> float:
        """FLOPs of one forward and backward pass over sequences of these lengths."""
        tokens = np.asarray(lengths, np.float64)
        return float(self.per_token * tokens.sum() + self.per_token_and_length * np.square(tokens).sum())

    @property
    def linear_cost(self) -> float:
        """Length at which attention takes as much as all the rest, for `trainer.packing`."""
        return self.per_token / self.per_token_and_length


def peak_flops(device_name: str) -> float | None:
    """bfloat16 FLOP/s that a GPU can do at most; None for one that is not listed, and for CPUs."""
    words = re.split(r"[^A-Z0-9]+", device_name.upper())
    return next((peak for name, peak in _PEAKS.items() if name in words), None)


def active_parameters(config: PretrainedConfig, parameters: int, expert_parameters: int) -> int:
    """Parameters that one token passes through: of the experts only those it is routed to."""
    text = config.get_text_config()
    experts = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    if not expert_parameters or not experts:
        return parameters
    return parameters - expert_parameters + expert_parameters * text.num_experts_per_tok // experts
