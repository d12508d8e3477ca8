"""Checkpoints of the learner: sharded ones to go on from, Hugging Face directories to give away, and hashes.

Every function is called on all ranks together. Full tensors exist one at a time, never the whole model (an export
holds one file's worth on rank 0).
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainer.directories import atomic_directory
from trainer.optim import ShardedAdamW

_EXPORT_FILE_BYTES = 4 << 30
_MODEL_FILES = (".json", ".jinja", ".txt", ".model")  # configuration and tokenizer, not weights


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


def export_model(
    directory: Path,
    parameters: Mapping[str, DTensor],
    source: Path,
    dtype: torch.dtype,
    file_bytes: int = _EXPORT_FILE_BYTES,
) -> None:
    """Write a Hugging Face directory: weights in `dtype`, everything else copied from the model directory `source`.

    Rank 0 writes, file by file of at most `file_bytes`; the directory appears whole or not at all.
    """
    files = _files(parameters, dtype.itemsize, file_bytes)
    with ExitStack() as stack:
        draft = stack.enter_context(atomic_directory(directory)) if dist.get_rank() == 0 else None
        for file, names in files.items():
            tensors = {n: t.to("cpu", dtype) for n, t in _full_tensors({n: parameters[n] for n in names}) if draft}
            if draft:
                save_file(tensors, draft / file, metadata={"format": "pt"})
        if draft:
            _write_index(draft, files)
            for path in source.iterdir():
                if path.suffix in _MODEL_FILES and not path.name.endswith(".index.json"):
                    shutil.copyfile(path, draft / path.name)
    dist.barrier()


def _files(parameters: Mapping[str, DTensor], item_size: int, file_bytes: int) -> dict[str, list[str]]:
    """Parameter names per safetensors file, in order."""
    files: list[list[str]] = [[]]
    room = file_bytes
    for name, parameter in parameters.items():
        size = parameter.numel() * item_size
        if size > room and files[-1]:
            files.append([])
            room = file_bytes
        files[-1].append(name)
        room -= size
    if len(files) == 1:
        return {"model.safetensors": files[0]}
    return {f"model-{i:05d}-of-{len(files):05d}.safetensors": names for i, names in enumerate(files, 1)}


def _write_index(draft: Path, files: dict[str, list[str]]) -> None:
    if len(files) == 1:
        return
    weight_map = {name: file for file, names in files.items() for name in names}
    total = sum((draft / file).stat().st_size for file in files)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (draft / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _full_tensors(parameters: Mapping[str, DTensor]) -> Iterator[tuple[str, Tensor]]:
    """One gathered tensor after the other: a collective each, so every rank must run to the end."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            yield name, parameter.full_tensor().detach()
