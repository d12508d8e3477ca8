"""Statistics that add up over micro-batches, ranks and updates."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(slots=True)
class Sums:
    """Statistics of one rank, added up (or the largest taken, for names that end in `_max`)."""

    values: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, value: Tensor) -> None:
        """Add a scalar."""
        value = value.detach().double()
        if name in self.values:
            value = torch.maximum(self.values[name], value) if name.endswith("_max") else self.values[name] + value
        self.values[name] = value

    def over_ranks(self) -> dict[str, float]:
        """The same over all ranks, with a single collective."""
        mine = torch.stack(list(self.values.values()))
        ranks = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(ranks, mine)
        every = torch.stack(ranks)
        sums, largest = every.sum(0).tolist(), every.amax(0).tolist()
        return {n: largest[i] if n.endswith("_max") else sums[i] for i, n in enumerate(self.values)}


def combine(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Token-weighted means over updates; `tokens` is their sum and `*_max` the largest."""
    tokens = sum(part["tokens"] for part in parts)
    combined = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if name.endswith("_max"):
            combined[name] = max(values)
        else:
            combined[name] = sum(v * part["tokens"] for v, part in zip(values, parts, strict=True)) / tokens
    return combined | {"tokens": float(tokens)}
