"""Weights for the engines: each rank writes its own rows straight into a mapped file. Nothing is gathered."""

from collections.abc import Mapping

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from rollout.memory_file import mapped
from rollout.weight_sums import checksum, promise, side_by_side
from rollout.weights import TensorSpec, WeightLayout, WeightSlot
from trainer.rows import first_row, local_shard
from trainer.stored_names import Parts


def layout_of(parameters: Mapping[str, DTensor], parts: Parts, dtype: str, ranks: int) -> WeightLayout:
    """Where each full tensor lies in a weight file, in `dtype`; the same on every rank."""
    return WeightLayout.of(((name, dtype, tuple(p.shape)) for name, p in parameters.items()), ranks, parts)


def write_shards(parameters: Mapping[str, DTensor], slot: WeightSlot, rank: int, world_size: int) -> None:
    """Write this rank's rows of every tensor into the slot's file, and then its line of checksums.

    Raises `ValueError` before writing anything when the layout is not this model's or the file is too small.
    """
    check_layout(parameters, slot.layout)
    file = mapped(slot.path, slot.layout.nbytes)

    def write(spec: TensorSpec) -> int:
        data = _bytes_of(local_shard(parameters[spec.name]), getattr(torch, spec.dtype))
        start = _start(spec, rank, world_size)
        np.copyto(file[spec.offset + start : spec.offset + start + len(data)], data)
        return checksum(data, start)

    promise(file, slot.layout, rank, slot.version, side_by_side(write, slot.layout.tensors))


def ranges_of(layout: WeightLayout, rank: int, world_size: int) -> list[tuple[int, int]]:
    """[(offset, bytes)] of everything that a rank writes, its line of checksums last."""
    ranges = []
    for spec in layout.tensors:
        start, end = _start(spec, rank, world_size), _start(spec, rank + 1, world_size)
        ranges.append((spec.offset + start, end - start))
    return [*ranges, (layout.table_offset + rank * layout.line_bytes, layout.line_bytes)]


def check_layout(parameters: Mapping[str, DTensor], layout: WeightLayout) -> None:
    """Raise `ValueError`, naming the first that differs, unless the layout lists exactly these tensors."""
    wanted = {spec.name: spec.shape for spec in layout.tensors}
    held = {name: tuple(p.shape) for name, p in parameters.items()}
    if wanted != held:
        odd = sorted(name for name in wanted.keys() | held.keys() if wanted.get(name) != held.get(name))
        raise ValueError(
            f"a weight layout must list the learner's tensors, got {len(odd)} that differ, first {odd[0]}: layout "
            f"{wanted.get(odd[0])}, learner {held.get(odd[0])}; take the layout from the learner"
        )


def _start(spec: TensorSpec, rank: int, world_size: int) -> int:
    """Bytes of the tensor that lie before a rank's rows."""
    return first_row(spec.shape[0], rank, world_size) * (spec.nbytes // spec.shape[0])


def _bytes_of(rows: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
    return rows.to("cpu", dtype).contiguous().view(-1).view(torch.uint8).numpy() if rows.numel() else np.empty(0, "u1")
