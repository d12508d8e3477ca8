"""Tiny random models of the families that learner and engine are tested with, as directories on disk.

Every parameter is noise, norms too, so that no two can be taken for each other and logits are far from uniform.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from trainer.scratch_tokenizer import make_tokenizer

CONTEXT_LENGTH = 128
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {"tie_word_embeddings": True},
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "granite": {"logits_scaling": 4.0},
    "qwen3_moe": {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True},
    "mixtral": {"num_local_experts": 4, "tie_word_embeddings": True, "router_jitter_noise": 0.3},
}
"""What differs from family to family. Odd numbers of experts do not fit two ranks; Mixtral's files have other names."""


def make_family(family: str, directory: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A model directory of the family, with a byte tokenizer; the same every time."""
    disable_progress_bar()
    tokenizer = make_tokenizer("bytes", CONTEXT_LENGTH)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": CONTEXT_LENGTH,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AutoConfig.for_model(family, **(shape | FAMILIES.get(family, {}) | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=noise)
    model.to(dtype).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
