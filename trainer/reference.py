"""The reference policy: the weights that a phase started from, kept beside the policy as a copy of its shards.

To ask the reference is to swap the copy into the policy for a moment: no second model, no second set of gathered
parameters, and the swap is two memory copies of a shard against a forward pass over a batch.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Reference:
    """This rank's shards of the trained parameters as they are now."""

    def __init__(self, shards: Mapping[str, Tensor]) -> None:
        self._kept = {name: shard.clone() for name, shard in shards.items()}

    @contextmanager
    def in_place_of(self, shards: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside the block `shards` hold the reference; afterwards they are what they were, bit for bit."""
        self._swap(shards)
        try:
            yield
        finally:
            self._swap(shards)

    @torch.no_grad()
    def _swap(self, shards: Mapping[str, Tensor]) -> None:
        for name, kept in self._kept.items():
            now = shards[name].clone()
            shards[name].copy_(kept)
            kept.copy_(now)
