"""Hugging Face directories to give away: weights by the names and in the pieces of the model that training began with.

Called on all ranks together. Full tensors exist one at a time; rank 0 holds one file's worth.
"""

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from rollout.weights import piece_shape
from trainer.directories import atomic_directory
from trainer.stored_names import Parts

_FILE_BYTES = 4 << 30
_MODEL_FILES = (".json", ".jinja", ".txt", ".model")  # configuration and tokenizer, not weights


def export_model(
    directory: Path,
    parameters: Mapping[str, DTensor],
    parts: Parts,
    source: Path,
    dtype: torch.dtype,
    file_bytes: int = _FILE_BYTES,
) -> None:
    """Write a Hugging Face directory: weights in `dtype`, everything else copied from the model directory `source`.

    Rank 0 writes, file by file of at most `file_bytes` (but a parameter is never split); the directory appears whole
    or not at all.
    """
    files = _files(parameters, dtype.itemsize, file_bytes)
    with ExitStack() as stack:
        draft = stack.enter_context(atomic_directory(directory)) if dist.get_rank() == 0 else None
        for file, names in files.items():
            tensors: dict[str, Tensor] = {}
            for name in names:
                whole = _whole(parameters[name], dtype)
                if draft:
                    tensors |= _pieces(whole.cpu(), parts[name])
                del whole  # before the next one is gathered
            if draft:
                _write(tensors, draft / file)
        if draft:
            _write_index(draft, {file: [piece for n in names for piece in parts[n]] for file, names in files.items()})
            for path in source.iterdir():
                if path.suffix in _MODEL_FILES and not path.name.endswith(".index.json"):
                    shutil.copyfile(path, draft / path.name)
    dist.barrier()


@torch.no_grad()
def _whole(parameter: DTensor, dtype: torch.dtype) -> Tensor:
    """Gathered after rounding: half the bytes travel. A collective."""
    return parameter.to(dtype).full_tensor()


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # a full disk has no class of its own there
        full = "No space left" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error)) from error


def _pieces(whole: Tensor, names: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    return zip(names, whole.view(len(names), *piece_shape(tuple(whole.shape), len(names))), strict=True)


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
