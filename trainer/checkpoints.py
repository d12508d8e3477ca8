"""Checkpoints of the learner: sharded ones to go on from, and hashes.

Every function is called on all ranks together. Full tensors exist one at a time, never the whole model.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainer.directories import atomic_directory
from trainer.optim import ShardedAdamW


def save_checkpoint(directory: Path, parameters: Mapping[str, DTensor], optimizer: ShardedAdamW | None) -> None:
    """Write a sharded checkpoint that appears whole or not at all; loadable on any number of ranks."""
    with ExitStack() as stack:
        draft = [stack.enter_context(atomic_directory(directory)) if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(draft)
        dcp.save(_state(parameters, optimizer), checkpoint_id=draft[0])
        dist.barrier()
    dist.barrier()


def load_checkpoint(directory: Path, parameters: Mapping[str, DTensor], optimizer: ShardedAdamW | None) -> None:
    """Fill parameters, and with `optimizer` its moments and counters and the random state, from a checkpoint."""
    if not (directory / ".metadata").exists():
        raise FileNotFoundError(f"no learner checkpoint at {directory}: it has no .metadata file")
    state = _state(parameters, optimizer)
    dcp.load(state, checkpoint_id=directory)
    if optimizer is not None:
        steps_done, updates = state["counters"].tolist()
        optimizer.restore(steps_done, updates)
        torch.set_rng_state(state["rng"])


def _state(parameters: Mapping[str, DTensor], optimizer: ShardedAdamW | None) -> dict[str, Any]:
    state: dict[str, Any] = {"model": dict(parameters)}
    if optimizer is not None:
        state["optimizer"] = {
            name: {key: _like(parameters[name], moment) for key, moment in moments.items()}
            for name, moments in optimizer.moments().items()
        }
        state["counters"] = torch.tensor([optimizer.steps_done, optimizer.updates])
        state["rng"] = torch.get_rng_state()
    return state


def _like(parameter: DTensor, shard: Tensor) -> DTensor:
    return DTensor.from_local(
        shard,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def hash_weights(parameters: Mapping[str, DTensor]) -> str:
    """sha256 over names and full float32 tensors; the same for any number of ranks."""
    digest = hashlib.sha256()
    for name, tensor in _full_tensors(parameters):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _full_tensors(parameters: Mapping[str, DTensor]) -> Iterator[tuple[str, Tensor]]:
    """One gathered tensor after the other: a collective each, so every rank must run to the end."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            yield name, parameter.full_tensor().detach()
