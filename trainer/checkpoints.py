"""Checkpoints of the learner: what sharded ones hold, loading them, and hashes.

Every function is called on all ranks together. Full tensors exist one at a time, never the whole model.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from trainer.optim import MOMENTS, ShardedAdamW
from trainer.rows import local_shard


def load_checkpoint(directory: Path, tensors: Mapping[str, DTensor], optimizer: ShardedAdamW | None) -> None:
    """Fill `tensors`, and with `optimizer` its moments and counters and the random state, from a checkpoint.

    Any number of ranks may have written it. Random states continue per rank where as many ranks of the same kind load
    as saved; else every rank begins a stream of its own that follows from rank 0's.

    Raises:
        FileNotFoundError: When there is no checkpoint.
    """
    if not (directory / ".metadata").exists():
        raise FileNotFoundError(f"no learner checkpoint at {directory}: it has no .metadata file")
    state = dict(state_of(tensors, optimizer))
    if optimizer is None:
        dcp.load(state, checkpoint_id=directory)
        return
    saved = FileSystemReader(directory).read_metadata().state_dict_metadata
    same_ranks = {name for name in saved if name.startswith("rng.")} == _names_of_random_states()
    if not same_ranks:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("rng.")}
        state["rng.0.cpu"] = torch.get_rng_state()
    dcp.load(state, checkpoint_id=directory)
    steps_done, updates = state["counters"].tolist()
    moments = {
        name: {key: local_shard(state[f"optimizer.{name}.{key}"]) for key in MOMENTS} for name in optimizer.names
    }
    optimizer.restore(steps_done, updates, moments)
    if same_ranks:
        _continue_random_state(state)
    else:
        _branch_random_state(state["rng.0.cpu"])


def load_average(sources: Sequence[tuple[Path, float]], tensors: Mapping[str, DTensor]) -> None:
    """Fill `tensors` with the weighted sum of the same tensors of several checkpoints; one more copy of them exists.

    Args:
        sources: (directory, share) of each; the shares add up to 1.
        tensors: As for `load_checkpoint`.
    """
    total = {name: torch.zeros_like(local_shard(tensor)) for name, tensor in tensors.items()}
    with torch.no_grad():
        for directory, share in sources:
            load_checkpoint(directory, tensors, None)
            for name, tensor in tensors.items():
                total[name].add_(local_shard(tensor), alpha=share)
        for name, tensor in tensors.items():
            local_shard(tensor).copy_(total[name])


def state_of(tensors: Mapping[str, DTensor], optimizer: ShardedAdamW | None) -> Iterator[tuple[str, Tensor]]:
    """What a checkpoint holds, by name in it: `tensors`, and with `optimizer` its state and this rank's random state.

    Tensors and moments are the live ones, not copies (quantised moments exist in float32 one after the other);
    `optimizer` may hold some of the tensors or all of them.
    """
    yield from ((f"model.{name}", tensor) for name, tensor in tensors.items())
    if optimizer is None:
        return
    for name, key, moment in optimizer.moments():
        yield f"optimizer.{name}.{key}", sharded_like(tensors[name], moment, tensors[name].device_mesh)
    yield "counters", torch.tensor([optimizer.steps_done, optimizer.updates])
    yield _random_state_of(dist.get_rank(), "cpu"), torch.get_rng_state()
    if torch.cuda.is_available():
        yield _random_state_of(dist.get_rank(), "cuda"), torch.cuda.get_rng_state()


def sharded_like(whole: DTensor, shard: Tensor, mesh: DeviceMesh) -> DTensor:
    """The sharded tensor on `mesh` of which this rank holds `shard`, laid out as `whole`."""
    return DTensor.from_local(shard, mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride())


def _random_state_of(rank: int, device: str) -> str:
    return f"rng.{rank}.{device}"


def _names_of_random_states() -> set[str]:
    """Of all ranks, were they to save now."""
    devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    return {_random_state_of(rank, device) for rank in range(dist.get_world_size()) for device in devices}


def _continue_random_state(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state[_random_state_of(dist.get_rank(), "cpu")])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(state[_random_state_of(dist.get_rank(), "cuda")])


def _branch_random_state(first: Tensor) -> None:
    """Seed this rank, its GPU too, from the random state of rank 0 and its own number."""
    torch.set_rng_state(first)
    torch.manual_seed(int(torch.randint(1 << 62, ())) + dist.get_rank())


def hash_weights(parameters: Mapping[str, DTensor]) -> str:
    """sha256 over names and full float32 tensors; the same for any number of ranks. Rank 0 computes it for all."""
    digest, computes = hashlib.sha256(), dist.get_rank() == 0
    for name, tensor in _full_tensors(parameters):
        if computes:
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    told = [digest.hexdigest()]
    dist.broadcast_object_list(told)
    return told[0]


def _full_tensors(parameters: Mapping[str, DTensor]) -> Iterator[tuple[str, Tensor]]:
    """One gathered tensor after the other: a collective each, so every rank must run to the end."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            yield name, parameter.full_tensor().detach()
