"""The training loop that one writes without RLoop: a transformers model, micro-batches, PPO in three lines, AdamW.

The yardstick of `learner.py`. It keeps no statistics, and its micro-batches are made before the clock runs.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM

from rollout.records import FloatArray, IntArray, TrainingBatch
from trainer.batching import MicroBatch

CLIP_LOW, CLIP_HIGH, MAX_GRAD_NORM = 0.2, 0.28, 1.0


@dataclass(frozen=True, slots=True, eq=False)
class BareMicroBatch:
    """Tokens for the model, and of each of the n tokens to be trained what PPO asks for."""

    arguments: dict[str, Any]
    """What the decoder is called with."""
    states: Tensor
    """[n] int64 positions, over all rows, of the hidden states that predict them."""
    tokens: Tensor
    """[n] int64"""
    old_logprobs: Tensor
    """[n]"""
    advantages: Tensor
    """[n]"""


class BareLoop:
    """A model and its optimizer; matrices in float32 on CPUs, under bfloat16 autocast on GPUs."""

    def __init__(self, model_dir: Path, attention: str, lr: float, device: torch.device) -> None:
        self._lm = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=torch.float32, attn_implementation=attention
        ).to(device)
        self._lm.train()
        self._adam = torch.optim.AdamW(self._lm.parameters(), lr, weight_decay=0.0, fused=True)
        self._device = device

    def step(self, micros: Sequence[BareMicroBatch]) -> None:
        """One update."""
        total = sum(len(micro.tokens) for micro in micros)
        for micro in micros:
            with torch.autocast("cuda", torch.bfloat16) if self._device.type == "cuda" else nullcontext():
                hidden = self._lm.base_model(**micro.arguments, use_cache=False).last_hidden_state.flatten(0, 1)
                logits = self._lm.lm_head(hidden.index_select(0, micro.states))
            logprobs = logits.float().log_softmax(-1).gather(-1, micro.tokens[:, None]).squeeze(-1)
            ratio = (logprobs - micro.old_logprobs).exp()
            clipped = ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH)
            loss = -torch.minimum(ratio * micro.advantages, clipped * micro.advantages).sum() / total
            loss.backward()
        clip_grad_norm_(self._lm.parameters(), MAX_GRAD_NORM)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)


def packed(micro: MicroBatch, batch: TrainingBatch, advantages: FloatArray, attention: str) -> BareMicroBatch:
    """A micro-batch of ours, for the bare loop; `advantages` [N]."""
    index = micro.index.cpu().numpy()
    return _micro_batch(
        micro.sequences.model_arguments(attention), micro.targets - 1, index, batch, advantages, micro.targets.device
    )


def padded(
    batch: TrainingBatch, advantages: FloatArray, order: IntArray, max_tokens: int, device: torch.device
) -> list[BareMicroBatch]:
    """The sequences in the given order as rows padded on the right, as many rows as `max_tokens` cells hold.

    Causality keeps padding on the right from being attended to, so there is no mask: the fastest form of padding.
    """
    out = []
    for members in _rows(batch.lengths, order, max_tokens):
        longest = int(batch.lengths[members].max())
        cells = np.zeros((len(members), longest), np.int64)
        states, index = [], []
        for row, s in enumerate(members):
            span = np.arange(batch.starts[s], batch.starts[s] + batch.lengths[s])
            cells[row, : len(span)] = batch.token_ids[span]
            trained = np.flatnonzero(batch.loss_mask[span])
            states.append(row * longest + trained - 1)
            index.append(span[trained])
        arguments = {"input_ids": torch.from_numpy(cells).to(device)}
        where = torch.from_numpy(np.concatenate(states)).to(device)
        out.append(_micro_batch(arguments, where, np.concatenate(index), batch, advantages, device))
    return out


def _rows(lengths: IntArray, order: IntArray, max_tokens: int) -> Iterator[list[int]]:
    """Consecutive sequences whose padded rows have room together."""
    members: list[int] = []
    for s in order.tolist():
        if members and int(lengths[[*members, s]].max()) * (len(members) + 1) > max_tokens:
            yield members
            members = []
        members.append(s)
    yield members


def _micro_batch(
    arguments: dict[str, Any],
    states: Tensor,
    index: np.ndarray,
    batch: TrainingBatch,
    advantages: FloatArray,
    device: torch.device,
) -> BareMicroBatch:
    def column(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values[index]).to(device)

    tokens = column(batch.token_ids.astype(np.int64))
    return BareMicroBatch(arguments, states, tokens, column(batch.behaviour_logprobs), column(advantages))
