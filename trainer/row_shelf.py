"""What a learner rank keeps for engines on other hosts: a copy of its rows per version, served while it trains."""

from collections.abc import Mapping
from dataclasses import replace

from torch.distributed.tensor import DTensor

from rollout.memory_file import MemoryFile, mapped
from rollout.transports.tcp import RowServer
from rollout.weights import RowSource, WeightSlot
from trainer.publish import ranges_of, write_shards


class RowShelf:
    """One rank's rows of the versions that engines may still ask for.

    The files are as large as the model but sparse: memory is used for this rank's rows alone.
    """

    def __init__(self, host: str) -> None:
        self._server = RowServer(host)
        self._files: dict[int, MemoryFile] = {}

    @property
    def sources(self) -> tuple[RowSource, ...]:
        """Where engines fetch the rows, and with which token."""
        return (self._server.source,)

    def put(self, parameters: Mapping[str, DTensor], slot: WeightSlot, rank: int, world_size: int) -> None:
        """Copy the rank's rows to the slot's side and serve them as the slot's version."""
        nbytes = slot.layout.nbytes
        self._server.withdraw(slot.side)
        if slot.side not in self._files:
            self._files[slot.side] = MemoryFile(f"rloop-rows-{slot.side}", nbytes)
        here = replace(slot, path=self._files[slot.side].path)
        write_shards(parameters, here, rank, world_size)
        ranges = ranges_of(slot.layout, rank, world_size)
        self._server.offer(slot.side, slot.version, mapped(here.path, nbytes), ranges)

    def close(self) -> None:
        """Stop serving and free the memory. Safe to call twice."""
        self._server.close()
        for file in self._files.values():
            file.close()
        self._files.clear()
