"""From a training batch to the padded micro-batches of one rank. Every rank computes the same plan by itself.

Rows of similar length share a micro-batch and are padded on the right, which is exact under causal attention: no
token ever attends to what follows it. Ranks must run the same number of forward passes, because each pass is a
collective under FSDP; a rank that has fewer runs empty ones.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rollout.records import BoolArray, FloatArray, IntArray, TrainingBatch


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """b sequences padded to T tokens; an empty one is a row of padding without loss tokens."""

    input_ids: Tensor
    """[b, T] int64"""
    loss_mask: Tensor
    """[b, T] bool; False on padding."""
    behaviour: Tensor
    """[b, T] float32; 0 off the mask."""
    advantages: Tensor
    """[b, 1] float32: one per sequence, the same for all its tokens."""

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on `device`."""
        tensors = (self.input_ids, self.loss_mask, self.behaviour, self.advantages)
        return MicroBatch(*(t.to(device, non_blocking=True) for t in tensors))


def micro_batches(
    batch: TrainingBatch, advantages: FloatArray, rank: int, world_size: int, max_tokens: int
) -> list[MicroBatch]:
    """This rank's share of `batch`: equally many micro-batches on every rank, each at most `max_tokens` with padding.

    `advantages` is [S]. A single sequence longer than `max_tokens` gets a micro-batch of its own.
    """
    plans = [bucket(batch.lengths, shard, max_tokens) for shard in shard_by_tokens(batch.lengths, world_size)]
    mine = plans[rank]
    empty = max(map(len, plans)) - len(mine)
    return [_pad(batch, advantages, rows) for rows in mine] + [_nothing() for _ in range(empty)]


def shard_by_tokens(lengths: IntArray, world_size: int) -> list[list[int]]:
    """Sequence indices per rank, longest first, each given to the rank with the fewest tokens so far."""
    shards: list[list[int]] = [[] for _ in range(world_size)]
    loads = [(0, rank) for rank in range(world_size)]
    for index in np.argsort(-lengths, kind="stable").tolist():
        load, rank = heapq.heappop(loads)
        shards[rank].append(index)
        heapq.heappush(loads, (load + int(lengths[index]), rank))
    return shards


def bucket(lengths: IntArray, sequences: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut `sequences`, sorted longest first, into runs of rows x longest <= `max_tokens`; at least one row each."""
    runs: list[list[int]] = []
    start = 0
    while start < len(sequences):
        rows = max(1, max_tokens // int(lengths[sequences[start]]))
        runs.append(list(sequences[start : start + rows]))
        start += rows
    return runs


def split_by_groups(batch: TrainingBatch, minibatches: int) -> list[TrainingBatch]:
    """`batch` in parts of whole groups, as equal in groups as possible, in order of group id."""
    if minibatches == 1:
        return [batch]
    groups = np.unique(batch.group_ids)
    if len(groups) < minibatches:
        raise ValueError(f"minibatches must be at most the groups of a batch, got {minibatches} and {len(groups)}")
    return [select(batch, np.isin(batch.group_ids, part)) for part in np.array_split(groups, minibatches)]


def select(batch: TrainingBatch, keep: BoolArray) -> TrainingBatch:
    """The sequences where `keep` [S] is True."""
    tokens = np.repeat(keep, batch.lengths)
    return TrainingBatch(
        batch.token_ids[tokens],
        batch.loss_mask[tokens],
        batch.behaviour_logprobs[tokens],
        batch.versions[tokens],
        batch.lengths[keep],
        batch.rewards[keep],
        batch.group_ids[keep],
    )


def pad_rows(rows: Sequence[np.ndarray], dtype: np.dtype) -> Tensor:
    """[b, T] the given 1-D arrays, padded on the right with zeros; T is at least 2, so that something is predicted."""
    out = np.zeros((len(rows), max(2, *map(len, rows))), dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return torch.from_numpy(out)


def _pad(batch: TrainingBatch, advantages: FloatArray, sequences: Sequence[int]) -> MicroBatch:
    starts, lengths = batch.starts, batch.lengths
    slices = [slice(int(starts[s]), int(starts[s] + lengths[s])) for s in sequences]
    return MicroBatch(
        pad_rows([batch.token_ids[s] for s in slices], np.dtype(np.int64)),
        pad_rows([batch.loss_mask[s] for s in slices], np.dtype(np.bool_)),
        pad_rows([batch.behaviour_logprobs[s] for s in slices], np.dtype(np.float32)),
        torch.from_numpy(advantages[list(sequences), None]),
    )


def _nothing() -> MicroBatch:
    shape = (1, 2)
    return MicroBatch(
        torch.zeros(shape, dtype=torch.int64),
        torch.zeros(shape, dtype=torch.bool),
        torch.zeros(shape),
        torch.zeros(1, 1),
    )
