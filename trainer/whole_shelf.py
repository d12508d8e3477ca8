"""What a learner rank keeps for engines that it pushes weights to: whole tensors, gathered one parameter at a time.

Over NCCL rank 0 serves all engines; by CUDA-IPC each rank serves the engine on its own GPU.
The copy is what lets training go on while engines take the version, and lets a newcomer have it later: the parameters
themselves move on with the next step. It lies in host memory, so on the GPU there is never more than one whole
parameter beside the shards. For CUDA-IPC it has to lie on the GPU that learner and engine share.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from rollout.weights import RowSource, TensorSpec, WeightLayout, WeightSlot
from trainer.publish import check_layout
from trainer.weight_sender import WeightSender


class WholeShelf:
    """Versions that engines may still ask for.

    Args:
        sender: Who sends them; None on ranks that take part in the gathering and keep nothing.
        device: Where the copies lie.
    """

    def __init__(self, sender: WeightSender | None, device: torch.device) -> None:
        self._sender = sender
        self._device = device
        self._sides: dict[int, dict[str, Tensor]] = {}

    @property
    def sources(self) -> tuple[RowSource, ...]:
        """Where engines join, if it is here."""
        return (self._sender.source,) if self._sender else ()

    def put(self, parameters: Mapping[str, DTensor], slot: WeightSlot, rank: int, world_size: int) -> None:
        """Gather the parameters and, with a sender, send them from now on as the slot's version. A collective."""
        check_layout(parameters, slot.layout)
        if self._sender:
            self._sender.withdraw(slot.side)
            if slot.side not in self._sides:
                self._sides[slot.side] = self._room(slot.layout)
        for spec in slot.layout.tensors:
            with torch.no_grad():
                # Rounded first, gathered then: what travels between the ranks is what the engines get.
                whole = parameters[spec.name].to(getattr(torch, spec.dtype)).full_tensor()
            if self._sender:
                self._sides[slot.side][spec.name].copy_(whole)
            del whole  # before the next one is gathered
        if self._sender:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # the engine reads from another process, on a stream of its own
            pieces = {k: v for spec in slot.layout.tensors for k, v in _pieces(spec, self._sides[slot.side][spec.name])}
            self._sender.offer(slot.side, slot.version, slot.layout, pieces)

    def close(self) -> None:
        """Stop sending and free the memory. Safe to call twice."""
        if self._sender:
            self._sender.close()
        self._sides.clear()

    def _room(self, layout: WeightLayout) -> dict[str, Tensor]:
        pinned = self._device.type == "cpu" and torch.cuda.is_available()  # else each copy to the GPU goes twice
        return {
            spec.name: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device=self._device, pin_memory=pinned)
            for spec in layout.tensors
        }


def _pieces(spec: TensorSpec, whole: Tensor) -> Iterator[tuple[str, Tensor]]:
    pieces = spec.pieces()
    return zip(spec.parts, whole.view(len(pieces), *pieces[0].shape), strict=True)
