"""Where weights from other hosts land: files in memory on the engine's host, loaded as shared memory is."""

import asyncio
from dataclasses import replace

from rollout.memory_file import MemoryFile, mapped
from rollout.transports.tcp import IO_TIMEOUT_S, fetch
from rollout.weights import WeightSlot


class WeightLanding:
    """Brings a slot to this host, if it is not there yet."""

    def __init__(self, timeout_s: float = IO_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._files: dict[int, MemoryFile] = {}
        self.in_use = ""
        """Path of the file that the engine may compute with: nothing lands there."""

    async def land(self, slot: WeightSlot) -> WeightSlot:
        """The same version in a file of this host: rows of all ranks, fetched side by side.

        Raises:
            WeightsMissing: Some rank's rows did not come.
        """
        if not slot.layout.sources:
            return slot
        nbytes = slot.layout.nbytes
        side = next(side for side in (0, 1) if side not in self._files or self._files[side].path != self.in_use)
        file = self._files.get(side)
        if file is None or file.nbytes != nbytes:
            if file:
                file.close()
            file = self._files[side] = MemoryFile(f"rloop-landing-{side}", nbytes)
        memory = mapped(file.path, nbytes)
        fetches = [
            asyncio.to_thread(fetch, source, slot.version, memory, self._timeout_s) for source in slot.layout.sources
        ]
        # To the last one, whatever the others say: none may go on writing when the next version lands here.
        for end in await asyncio.gather(*fetches, return_exceptions=True):
            if isinstance(end, BaseException):
                raise end
        return replace(slot, path=file.path, layout=replace(slot.layout, sources=()))

    def close(self) -> None:
        """Free the memory. Safe to call twice."""
        for file in self._files.values():
            file.close()
        self._files.clear()
