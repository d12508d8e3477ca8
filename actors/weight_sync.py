"""Brings the learner's weights to the engines, while the learner trains on.

    consumes    the learner's weights, at a step boundary
    produces    versions that every engine was attested to run on; admission moves on with each
    waits for   the transfer before; the broadcaster
    unblocked   by an attested version, or by the failure of a transfer

At most one transfer is under way.
"""

import asyncio
import time
from collections.abc import Callable

from actors.progress import Progress
from actors.protocols import Broadcaster, Buffer, Learner
from rollout.records import FloatArray
from rollout.weights import WeightSlot


class WeightSync:
    """The way of a version from the learner to the engines."""

    def __init__(
        self,
        buffer: Buffer,
        learner: Learner,
        broadcaster: Broadcaster,
        progress: Progress,
        overlap: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """With `overlap`, `begin` does not wait for the transfer that it begins."""
        self._buffer = buffer
        self._learner = learner
        self._broadcaster = broadcaster
        self._progress = progress
        self._overlap = overlap
        self._clock = clock
        self._version = 0
        self.not_before = 0
        """Engines have this version, or are about to have it: older ones, made again, are not for them."""
        self.attested = -1
        """The newest version that every engine was attested to run on, as far as this process knows."""
        self.under_way: asyncio.Task[None] | None = None
        """The transfer; its failure is for whoever awaits `ended`."""

    async def begin(self, version: int) -> float:
        """Begin to bring the learner's weights to the engines; returns seconds waited for the transfer before."""
        if version < self.not_before:
            return 0.0
        began = self._clock()
        await self.ended()
        waited = self._clock() - began
        staged = await self._staged(version)
        self._version, self.under_way = version, asyncio.create_task(self._bring(staged))
        if not self._overlap:
            await self.ended()
        return waited

    async def bring(self, version: int) -> None:
        """Bring the learner's weights to every engine."""
        staged = await self._staged(version)
        self._progress.waiting(f"engines: version {version}")
        await self._bring(staged)

    async def ended(self) -> None:
        """Wait for the transfer under way, or for its failure."""
        if self.under_way:
            self._progress.waiting(f"engines: version {self._version}")
            transfer, self.under_way = self.under_way, None
            await transfer

    def cancel(self) -> None:
        """The run is over."""
        if self.under_way:
            self.under_way.cancel()

    async def _staged(self, version: int) -> tuple[WeightSlot, list[FloatArray]]:
        """Copy the learner's weights to where the engines take them from; from then on it may train on."""
        self._progress.waiting(f"learner: weights {version}")
        slot = await self._broadcaster.claim(await self._learner.layout(), version)
        await self._learner.stage(slot)
        return slot, await self._learner.probe(await self._broadcaster.probe_sequences())

    async def _bring(self, staged: tuple[WeightSlot, list[FloatArray]]) -> None:
        """Bring staged weights to every engine, attested; then let admission move on."""
        slot, expected = staged
        metrics = await self._broadcaster.publish(slot, expected)
        await self._buffer.new_version(slot.version)
        self.attested = slot.version
        self._progress.note("sync", metrics, version=slot.version)
