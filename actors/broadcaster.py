"""The weight broadcaster: brings a version to every engine and does not believe it arrived until shown.

It owns the two shared files that versions travel in, and the attestation: after each load an engine's log-probs of
a fixed probe must equal the learner's. Checksums alone do not do: a tied output head can keep its old packed copy
while all checksums agree. Weights never pass through this process; it hands out paths.
"""

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from actors.protocols import Worker
from actors.waiting import within
from rollout.memory_file import MemoryFile
from rollout.records import FloatArray, IntArray
from rollout.weights import WeightLayout, WeightSlot


class WeightsDisagree(RuntimeError):
    """An engine answered with other weights than the learner published."""


class WeightBroadcaster:
    """Publishes one version at a time to all workers."""

    def __init__(
        self, workers: dict[str, Worker], probe: Sequence[IntArray], tolerance: float, call_timeout_s: float
    ) -> None:
        self._workers = workers
        self._probe = list(probe)
        self._tolerance = tolerance
        self._call_timeout_s = call_timeout_s
        self._files: list[MemoryFile] = []
        self._published = -1
        self._attested: list[FloatArray] = []
        self._busy = asyncio.Lock()

    async def probe_sequences(self) -> list[IntArray]:
        """The fixed token sequences that learner and engines both score."""
        return self._probe

    async def claim(self, layout: WeightLayout, version: int) -> WeightSlot:
        """A slot to stage `version` in; the slot of the previous version stays readable.

        Raises:
            ValueError: When the version is not newer than the last one published.
        """
        if version <= self._published:
            raise ValueError(
                f"version numbers only grow: {self._published} is published, {version} was asked for; "
                "number re-initialised weights upwards too"
            )
        if not self._files:
            self._files = [MemoryFile(f"rloop-weights-{side}", layout.nbytes) for side in "ab"]
        return WeightSlot(self._files[version % 2].path, layout, version)

    async def publish(self, slot: WeightSlot, expected: Sequence[FloatArray]) -> dict[str, float]:
        """Load the slot into every engine and attest it there.

        Args:
            slot: A staged version.
            expected: [L-1] per probe sequence: the learner's log-probs under these weights.

        Returns:
            `sync_s`, the seconds until all engines ran on the version; `probe_max_diff` over all engines; and
            `probe_moved`, how far the learner's own probe moved since the last version: where it is below the
            tolerance, attestation cannot tell these two versions apart.

        Raises:
            WeightsDisagree: An engine labels its tokens otherwise, or computes other log-probs.
        """
        async with self._busy:
            began = time.monotonic()
            loaded = await asyncio.gather(
                *(
                    within(self._call_timeout_s, worker.load_weights(slot), f"version {slot.version} waits for {name}")
                    for name, worker in self._workers.items()
                )
            )
            seconds = time.monotonic() - began
            diffs = await asyncio.gather(*(self._attest(name, slot.version, expected) for name in self._workers))
            for name, version in zip(self._workers, loaded, strict=True):
                if version != slot.version:
                    raise WeightsDisagree(f"{name} labels tokens with version {version} after loading {slot.version}")
            moved = _max_diff(expected, self._attested) if self._attested else 0.0
            self._published, self._attested = slot.version, list(expected)
            return {
                "sync_s": seconds,
                "attest_s": time.monotonic() - began - seconds,
                "probe_max_diff": max(diffs),
                "probe_moved": moved,
            }

    async def close(self) -> None:
        """Free the shared memory. Safe to call twice."""
        for file in self._files:
            file.close()

    async def _attest(self, name: str, version: int, expected: Sequence[FloatArray]) -> float:
        answers = await within(
            self._call_timeout_s, self._workers[name].probe(self._probe), f"attestation of {version} waits for {name}"
        )
        diff = _max_diff(answers, expected)
        if not diff <= self._tolerance:
            raise WeightsDisagree(
                f"{name} does not compute with version {version}: log-probs of the probe differ from the learner's by "
                f"{diff:.2g}, tolerance {self._tolerance:.2g}. Part of the weights did not arrive (often a tied "
                "output head), or the engine's precision is lower than the learner's (raise actors.probe_tolerance)"
            )
        return diff


def _max_diff(some: Sequence[FloatArray], others: Sequence[FloatArray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(some, others, strict=True))
