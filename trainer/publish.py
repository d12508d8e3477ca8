"""Weights for the engines: each rank writes its own rows straight into a shared file. Nothing is gathered."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from rollout.weights import WeightLayout
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
    with open(path, "r+b", buffering=0) as file:
        for spec in layout.tensors:
            rows = local_shard(parameters[spec.name])
            start = first_row(spec.shape[0], rank, world_size) * (spec.nbytes // spec.shape[0])
            _write_at(file.fileno(), rows.to("cpu", getattr(torch, spec.dtype)).contiguous(), spec.offset + start)


def _write_at(file: int, rows: torch.Tensor, offset: int) -> None:
    """Plain writes: mapping the file costs a page fault per 4 KiB, several times the copy."""
    data = memoryview(rows.view(-1).view(torch.uint8).numpy()) if rows.numel() else memoryview(b"")
    while data:  # one call writes 2 GiB at most
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


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
