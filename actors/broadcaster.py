"""The weight broadcaster: brings a version to every engine and does not believe it arrived until shown.

It owns the two shared files that versions travel in, and the attestation: after each load an engine's log-probs of
a fixed probe must equal the learner's. Checksums alone do not do: a tied output head can keep its old packed copy
while all checksums agree. Weights never pass through this process; it hands out paths.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import numpy as np

from actors.protocols import Worker
from actors.waiting import DeadlineExceeded, PeerLost, within
from rollout.engine import EngineDead
from rollout.memory_file import MemoryFile
from rollout.records import FloatArray, IntArray
from rollout.weights import WeightLayout, WeightSlot

logger = logging.getLogger(__name__)
T = TypeVar("T")


class WeightsDisagree(RuntimeError):
    """An engine answered with other weights than the learner published."""


class WeightBroadcaster:
    """Publishes one version at a time to all workers that are there. Workers come by `join` and go by `leave`.

    Args:
        probe: Token sequences that learner and engines both score.
        tolerance: Largest |log-prob| difference between them that counts as the same weights.
        call_timeout_s: How long one worker may take to answer one call.
    """

    def __init__(self, probe: Sequence[IntArray], tolerance: float, call_timeout_s: float) -> None:
        self._workers: dict[str, Worker] = {}
        self._probe = list(probe)
        self._tolerance = tolerance
        self._call_timeout_s = call_timeout_s
        self._files: list[MemoryFile] = []
        self._current: WeightSlot | None = None
        self._expected: list[FloatArray] = []
        self._busy = asyncio.Lock()

    async def probe_sequences(self) -> list[IntArray]:
        """The fixed token sequences that learner and engines both score."""
        return self._probe

    async def claim(self, layout: WeightLayout, version: int) -> WeightSlot:
        """A slot to stage `version` in; the slot of the current version stays readable.

        Raises:
            ValueError: When the version is not newer than the last one published.
        """
        if self._current and version <= self._current.version:
            raise ValueError(
                f"version numbers only grow: {self._current.version} is published, {version} was asked for; "
                "number re-initialised weights upwards too"
            )
        if not self._files:
            self._files = [MemoryFile(f"rloop-weights-{side}", layout.nbytes) for side in "ab"]
        taken = self._current.path if self._current else ""
        return WeightSlot(next(f.path for f in self._files if f.path != taken), layout, version)

    async def publish(self, slot: WeightSlot, expected: Sequence[FloatArray]) -> dict[str, float]:
        """Load the slot into every engine and attest it there.

        An engine that computes otherwise gets the version once more; when it still does, its worker is retired, and
        whoever watches over workers replaces it. So is a worker that is lost meanwhile.

        Args:
            slot: A staged version.
            expected: [L-1] per probe sequence: the learner's log-probs under these weights.

        Returns:
            `sync_s`, the seconds until all engines ran on the version; `probe_max_diff` over all engines; `engines`,
            how many there are; and `probe_moved`, how far the learner's own probe moved since the last version: below
            the tolerance, attestation cannot tell the two versions apart.
        """
        async with self._busy:
            began = time.monotonic()
            moved = _max_diff(expected, self._expected) if self._expected else 0.0
            self._current, self._expected = slot, list(expected)
            await self._from_each(lambda name, worker: self._load(name, worker, slot))
            seconds = time.monotonic() - began
            diffs = await self._from_each(lambda name, worker: self._attest_or_resend(name, worker, slot))
            return {
                "sync_s": seconds,
                "attest_s": time.monotonic() - began - seconds,
                "probe_max_diff": max(diffs, default=0.0),
                "probe_moved": moved,
                "engines": float(len(self._workers)),
            }

    async def join(self, name: str, worker: Worker) -> None:
        """Take in a worker that has just come up: it has the current version, attested, when this returns.

        Before the first version there is nothing to bring. While a version is being published this waits for its end.
        """
        async with self._busy:
            if self._current:
                await self._load(name, worker, self._current)
                await self._attest(name, worker, self._current.version)
            self._workers[name] = worker

    async def leave(self, name: str) -> None:
        """Forget a worker that ended."""
        self._workers.pop(name, None)

    async def close(self) -> None:
        """Free the shared memory. Safe to call twice."""
        for file in self._files:
            file.close()

    async def _from_each(self, ask: Callable[[str, Worker], Awaitable[T]]) -> list[T]:
        """Ask all workers at once; one that is lost is forgotten, whoever watches over workers replaces it."""
        names = list(self._workers)
        answers = await asyncio.gather(*(ask(name, self._workers[name]) for name in names), return_exceptions=True)
        given: list[T] = []
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, PeerLost | EngineDead | DeadlineExceeded | WeightsDisagree):
                logger.warning("%s is left out: %s", name, answer)
                worker = self._workers.pop(name, None)
                if worker and isinstance(answer, WeightsDisagree):
                    await within(self._call_timeout_s, worker.retire(str(answer)), f"retirement waits for {name}")
            elif isinstance(answer, BaseException):
                raise answer
            else:
                given.append(answer)
        return given

    async def _load(self, name: str, worker: Worker, slot: WeightSlot) -> None:
        what = f"version {slot.version} waits for {name}"
        if (label := await within(self._call_timeout_s, worker.load_weights(slot), what)) != slot.version:
            raise WeightsDisagree(f"{name} labels tokens with version {label} after loading {slot.version}")

    async def _attest_or_resend(self, name: str, worker: Worker, slot: WeightSlot) -> float:
        try:
            return await self._attest(name, worker, slot.version)
        except WeightsDisagree as first:
            logger.warning("version %d is sent to %s once more: %s", slot.version, name, first)
            await self._load(name, worker, slot)
            return await self._attest(name, worker, slot.version)

    async def _attest(self, name: str, worker: Worker, version: int) -> float:
        what = f"attestation of {version} waits for {name}"
        diff = _max_diff(await within(self._call_timeout_s, worker.probe(self._probe), what), self._expected)
        if not diff <= self._tolerance:
            raise WeightsDisagree(
                f"{name} does not compute with version {version}: log-probs of the probe differ from the learner's by "
                f"{diff:.2g}, tolerance {self._tolerance:.2g}. Part of the weights did not arrive (often a tied "
                "output head), or the engine's precision is lower than the learner's (raise actors.probe_tolerance)"
            )
        return diff


def _max_diff(some: Sequence[FloatArray], others: Sequence[FloatArray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(some, others, strict=True))
