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


def means(updates: Sequence[dict[str, float]]) -> dict[str, float]:
    """Metrics of a step from the sums of its updates (`tokens` among them, the loss tokens).

    Means over loss tokens, except: the largest of `*_max`; losses and gradient norms are means over updates already;
    `fresh_mismatch_abs` is over fresh tokens; the effective sample size is (Σw)² / (n Σw²) as a share of the tokens.
    """
    tokens = sum(update["tokens"] for update in updates)
    out = {}
    for name in updates[0]:
        values = [update[name] for update in updates]
        if name.endswith("_max"):
            out[name] = max(values)
        elif name.startswith("loss") or name == "grad_norm":
            out[name] = sum(v * u["tokens"] for v, u in zip(values, updates, strict=True)) / tokens
        else:
            out[name] = sum(values) / tokens
    if "fresh" in out:
        out["fresh_frac"] = out.pop("fresh")
        out["fresh_mismatch_abs"] /= out["fresh_frac"] or 1.0
    if "is_weight_square_mean" in out:
        square = out.pop("is_weight_square_mean")
        out["ess_frac"] = out["is_weight_mean"] ** 2 / square if square else 0.0
    return out | {"tokens": float(tokens)}
