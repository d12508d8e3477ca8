"""Which rows of a parameter a rank holds, and how to get at them."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def local_shard(tensor: DTensor | nn.Parameter) -> Tensor:
    """This rank's rows, sharing storage."""
    with torch.no_grad():
        return tensor.to_local()


def first_row(num_rows: int, rank: int, world_size: int) -> int:
    """Index of the first row that a rank holds: FSDP2 cuts axis 0 into ranges of ceil(rows / ranks)."""
    return min(rank * -(-num_rows // world_size), num_rows)
