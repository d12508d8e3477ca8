"""Models with random weights, and RL batches of random tokens: what `learner.py` trains. It measures nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from rollout.records import TrainingBatch
from trainer.flops import Work


@dataclass(frozen=True, slots=True)
class Workload:
    """A Qwen3 architecture with tied embeddings, and the lengths of what it trains on."""

    name: str
    vocab_size: int
    architecture: dict[str, Any]
    """Of `Qwen3Config`."""
    prompt: int
    """Tokens, equal for all."""
    median_response: int
    spread: float
    """Standard deviation of the logarithm of a response's length; lengths are log-normal."""
    longest_response: int
    micro_batch_tokens: int


MIDDLE = Workload(
    "12.6 M parameters",
    8192,
    {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 2}
    | {"head_dim": 64, "intermediate_size": 1024},
    prompt=32,
    median_response=150,
    spread=0.5,
    longest_response=1024,
    micro_batch_tokens=2048,
)
DEMO = Workload(
    "demo's 0.4 M",
    24,
    {"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    | {"head_dim": 32, "intermediate_size": 256},
    prompt=14,
    median_response=26,
    spread=0.25,
    longest_response=48,
    micro_batch_tokens=2048,
)
LONG_TAILED = Workload(
    "2.6 M, long-tailed",
    4096,
    {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2}
    | {"head_dim": 32, "intermediate_size": 512},
    prompt=32,
    median_response=100,
    spread=1.0,
    longest_response=1500,
    micro_batch_tokens=2048,
)
SIBLINGS = 8


def make_model(workload: Workload, folder: Path) -> Path:
    """Write the model and return its directory."""
    disable_progress_bar()
    torch.manual_seed(0)
    directory = folder / workload.name
    Qwen3ForCausalLM(_config(workload)).save_pretrained(directory)
    return directory


def linear_cost(workload: Workload) -> float:
    """See `trainer.packing`."""
    with torch.device("meta"):
        model = Qwen3ForCausalLM(_config(workload))
    return Work.of(model.config, sum(p.numel() for p in model.parameters())).linear_cost


def _config(workload: Workload) -> Qwen3Config:
    return Qwen3Config(vocab_size=workload.vocab_size, tie_word_embeddings=True, **workload.architecture)


def make_batch(workload: Workload, sequences: int) -> TrainingBatch:
    """Random tokens and rewards; behaviour log-probs near those of a random model, so that few ratios are clipped."""
    rng = np.random.default_rng(0)
    drawn = rng.lognormal(np.log(workload.median_response), workload.spread, sequences)
    lengths = workload.prompt + np.clip(drawn, 1, workload.longest_response).astype(np.int32)
    total = int(lengths.sum())
    mask = np.concatenate([np.arange(length) for length in lengths]) >= workload.prompt
    logprobs = rng.normal(-np.log(workload.vocab_size), 0.05, total)
    return TrainingBatch(
        token_ids=rng.integers(2, workload.vocab_size, total).astype(np.int32),
        loss_mask=mask,
        behaviour_logprobs=np.where(mask, logprobs, 0).astype(np.float32),
        versions=np.where(mask, 0, -1).astype(np.int32),
        lengths=lengths.astype(np.int32),
        rewards=rng.integers(0, 2, sequences).astype(np.float32),
        group_ids=(np.arange(sequences) // SIBLINGS).astype(np.int32),
        version=0,
    )
