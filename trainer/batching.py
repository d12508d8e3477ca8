"""From a training batch to the packed micro-batches of one rank: tokens for the model, indices for the loss.

S sequences and N tokens in the batch; in a micro-batch b sequences of T tokens together, n of them to be trained. What
the loss needs of a token (behaviour log-prob, advantage…) stays in arrays [N] and is picked by index: a micro-batch
holds no copy of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rollout.records import BoolArray, IntArray, TrainingBatch
from trainer.attention import PackedSequences
from trainer.packing import plan_micro_batches


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """b sequences end to end; an empty one is a sequence of padding of which nothing is trained."""

    sequences: PackedSequences
    targets: Tensor
    """[n] int64 positions in the micro-batch whose log-prob is wanted; never the first token of a sequence."""
    index: Tensor
    """[n] int64 position of each of them in the batch."""
    sequence_ids: Tensor
    """[n] int64 which of the b sequences each belongs to, ascending."""
    mask: Tensor
    """[n] bool; False only in an empty one, whose single target stands for nothing."""

    @property
    def num_sequences(self) -> int:
        """b."""
        return len(self.sequences.lengths)

    def to(self, device: torch.device) -> "MicroBatch":
        """The same on `device`."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in self.__slots__}
        return replace(self, **moved)


def micro_batches(
    batch: TrainingBatch, rank: int, world_size: int, max_tokens: int, linear_cost: float
) -> list[MicroBatch]:
    """This rank's share of `batch`, see `plan_micro_batches`: equally many on every rank."""
    plan = plan_micro_batches(batch.lengths, world_size, max_tokens, linear_cost)
    return [_pack(batch, members) if members else _nothing() for members in plan[rank]]


def whole_sequences(sequences: Sequence[IntArray]) -> MicroBatch:
    """All given sequences packed, with every token but the first of each as a target. `index` runs over them."""
    lengths = [len(s) for s in sequences]
    positions = np.concatenate([np.arange(length) for length in lengths])
    targets = np.flatnonzero(positions > 0)
    return _micro_batch(np.concatenate(sequences), lengths, targets, targets)


def split_by_groups(batch: TrainingBatch, minibatches: int) -> list[TrainingBatch]:
    """`batch` in parts of whole groups, as equal in groups as possible, in order of group id."""
    if minibatches == 1:
        return [batch]
    groups = np.unique(batch.group_ids)
    if len(groups) < minibatches:
        raise ValueError(f"minibatches must be at most the groups of a batch, got {minibatches} and {len(groups)}")
    return [select(batch, np.isin(batch.group_ids, part)) for part in np.array_split(groups, minibatches)]


def concatenate(parts: Sequence[TrainingBatch]) -> TrainingBatch:
    """The sequences of all parts of a step, one part after the other."""
    if len(parts) == 1:
        return parts[0]
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in TrainingBatch.__slots__
        if name != "version"
    }
    return TrainingBatch(**columns, version=parts[0].version)


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
        batch.version,
    )


def _pack(batch: TrainingBatch, members: Sequence[int]) -> MicroBatch:
    """The given sequences of a batch, shortest first, with the loss tokens as targets."""
    members = sorted(members, key=batch.lengths.__getitem__)  # attention takes neighbours of one length together
    spans = [np.arange(batch.starts[s], batch.starts[s] + batch.lengths[s]) for s in members]
    index = np.concatenate(spans)
    targets = np.flatnonzero(batch.loss_mask[index])
    if not len(targets):
        return _nothing()
    return _micro_batch(batch.token_ids[index], batch.lengths[members].tolist(), targets, index[targets])


def _micro_batch(
    token_ids: IntArray, lengths: Sequence[int], targets: npt.NDArray[np.int64], index: npt.NDArray[np.int64]
) -> MicroBatch:
    sequence_ids = np.repeat(np.arange(len(lengths)), lengths)[targets]
    return MicroBatch(
        PackedSequences.of(token_ids, lengths),
        torch.from_numpy(targets),
        torch.from_numpy(index),
        torch.from_numpy(sequence_ids),
        torch.ones(len(targets), dtype=torch.bool),
    )


def _nothing() -> MicroBatch:
    """A forward and backward pass for the sake of the other ranks."""
    empty = _micro_batch(np.zeros(2, np.int32), [2], np.array([1]), np.array([0]))
    return replace(empty, mask=torch.zeros(1, dtype=torch.bool))
