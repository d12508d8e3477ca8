"""Weights for the engines: each rank writes its own rows straight into a shared file. Nothing is gathered."""

import mmap
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from rollout.weights import TensorSpec, WeightLayout
from trainer.fsdp import first_row, local_shard


def layout_of(parameters: Mapping[str, DTensor], dtype: str) -> WeightLayout:
    """Where each full tensor lies in a weight file, in `dtype`; the same on every rank."""
    return WeightLayout.of((name, dtype, tuple(p.shape)) for name, p in parameters.items())


def write_shards(
    parameters: Mapping[str, DTensor], path: str, layout: WeightLayout, rank: int, world_size: int
) -> None:
    """Write this rank's rows of every tensor into the file at `path`, which is there and as large as `layout` says.

    Raises `ValueError` before writing anything when the layout is not this model's or the file is too small.
    """
    _check(parameters, path, layout)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), layout.nbytes) as memory:
        for spec in layout.tensors:
            rows = local_shard(parameters[spec.name])
            start = first_row(spec.shape[0], rank, world_size)
            view = _view(memory, spec)
            view[start : start + rows.shape[0]].copy_(rows)
            del view  # or the map cannot be closed


def _view(memory: mmap.mmap, spec: TensorSpec) -> torch.Tensor:
    dtype = getattr(torch, spec.dtype)
    count = torch.Size(spec.shape).numel()
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=spec.offset).view(spec.shape)


def _check(parameters: Mapping[str, DTensor], path: str, layout: WeightLayout) -> None:
    wanted = {spec.name: spec.shape for spec in layout.tensors}
    held = {name: tuple(p.shape) for name, p in parameters.items()}
    if wanted != held:
        odd = sorted(name for name in wanted.keys() | held.keys() if wanted.get(name) != held.get(name))
        raise ValueError(
            f"a weight layout must list the learner's tensors, got {len(odd)} that differ, first {odd[0]}: layout "
            f"{wanted.get(odd[0])}, learner {held.get(odd[0])}; take the layout from the learner"
        )
    size = Path(path).stat().st_size
    if size < layout.nbytes:
        raise ValueError(f"the weight file {path} must hold {layout.nbytes} bytes, got {size}; make it larger first")
