"""Where a learner rank keeps staged versions for engines that do not read a file of its own host."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch.distributed.tensor import DTensor

from rollout.transports import Transport
from rollout.weights import RowSource, WeightSlot
from trainer.carriers import IpcCarrier, NcclCarrier, OpenGroup, gpu_uuid
from trainer.row_shelf import RowShelf
from trainer.weight_sender import WeightSender
from trainer.whole_shelf import WholeShelf


class Shelf(Protocol):
    """Copies of versions, which engines may take while training goes on."""

    @property
    def sources(self) -> tuple[RowSource, ...]:
        """Where engines turn to; empty on a rank that only helps."""
        ...

    def put(self, parameters: Mapping[str, DTensor], slot: WeightSlot, rank: int, world_size: int) -> None:
        """Copy what this rank keeps of the slot's version; every rank calls it."""
        ...

    def close(self) -> None:
        """Serve nothing any more and free the memory."""
        ...


def make_shelf(
    transport: Transport, rank: int, host: str, device: torch.device, open_group: OpenGroup | None
) -> Shelf | None:
    """The shelf that a transport needs, if any.

    Args:
        host: Address of this rank that engines can reach.
        device: This rank's GPU.
        open_group: How rank 0 opens its end of an NCCL group.

    Raises:
        ValueError: The transport does not work between this learner and any engine.
    """
    if transport == "shared_memory":
        return None
    if transport == "tcp":
        return RowShelf(host)
    if transport == "nccl":
        if open_group is None:
            raise ValueError("weight_transport=nccl needs a learner that is given open_group, got None")
        opening = open_group  # not None, also where a type checker looks at the lambda
        sender = WeightSender(host, lambda workers: NcclCarrier(host, workers, device, opening)) if rank == 0 else None
        return WholeShelf(sender, torch.device("cpu"))
    if device.type != "cuda":
        raise ValueError(
            f"weight_transport=ipc works on a GPU that learner rank and engine share, got {device.type}; use auto"
        )
    gpu = gpu_uuid(device)
    return WholeShelf(WeightSender(host, lambda workers: IpcCarrier(gpu)), device)
