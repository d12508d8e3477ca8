"""The weight broadcaster: brings a version to every engine and does not believe it arrived until shown.

It owns the shared files that versions travel in on one host, and the attestation. Each engine compares the checksums of
what it reads with those of what the learner wrote, before it takes anything; after the load its log-probs of a fixed
probe must equal the learner's. Checksums alone do not do: a tied output head can keep its old packed copy while all of
them agree. Weights never pass through this process; it hands out paths.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import numpy as np

from actors.protocols import Worker
from actors.waiting import DeadlineExceeded, PeerLost, within
from rollout.engine import EngineDead, WeightsDisagree, WeightsMissing
from rollout.memory_file import MemoryFile
from rollout.records import FloatArray, IntArray
from rollout.weights import WeightLayout, WeightSlot

logger = logging.getLogger(__name__)
T = TypeVar("T")

_FAILURES = (PeerLost, EngineDead, DeadlineExceeded, WeightsDisagree)  # of one engine; what is missing has a source


def publish_timeout_s(call_timeout_s: float, transfer_timeout_s: float) -> float:
    """How long `publish`, or `join` alone, takes at most: the sum of the deadlines inside.

    At worst one engine's bytes are wrong (a transfer, quarantine, a transfer), then another's probe is (a probe,
    quarantine, a transfer, a probe, two words that all is well), and either ends with a retirement.
    """
    return 3 * transfer_timeout_s + 8 * call_timeout_s


class WeightBroadcaster:
    """Publishes one version at a time to all workers that are there. Workers come by `join` and go by `leave`.

    Args:
        probe: Token sequences that learner and engines both score.
        tolerance: Largest |log-prob| difference between them that counts as the same weights.
        call_timeout_s: How long one worker may take to answer one call.
        transfer_timeout_s: How long one version may take to reach an engine.
    """

    def __init__(
        self, probe: Sequence[IntArray], tolerance: float, call_timeout_s: float, transfer_timeout_s: float
    ) -> None:
        self._workers: dict[str, Worker] = {}
        self._probe = list(probe)
        self._tolerance = tolerance
        self._call_timeout_s = call_timeout_s
        self._transfer_timeout_s = transfer_timeout_s
        self._files: dict[int, MemoryFile] = {}
        self._sides: dict[int, int] = {}  # by version: those on their way, the current one, and what it replaces
        self._current: WeightSlot | None = None
        self._expected: list[FloatArray] = []
        self._busy = asyncio.Lock()

    async def probe_sequences(self) -> list[IntArray]:
        """The fixed token sequences that learner and engines both score."""
        return self._probe

    async def claim(self, layout: WeightLayout, version: int) -> WeightSlot:
        """A slot to stage `version` in; returns at once, also while another version is being published.

        Whatever an engine may still read stays as it is: the version in use and those on their way.

        Raises:
            ValueError: When the version is not newer than the last one published.
        """
        if self._current and version <= self._current.version:
            raise ValueError(
                f"version numbers only grow: {self._current.version} is published, {version} was asked for; "
                "number re-initialised weights upwards too"
            )
        taken = self._sides.values()
        side = self._sides.setdefault(version, next(side for side in itertools.count() if side not in taken))
        if layout.sources:  # the ranks keep their rows, and serve them
            return WeightSlot("", layout, version, side)
        if side not in self._files:
            self._files[side] = MemoryFile(f"rloop-weights-{side}", layout.nbytes)
        return WeightSlot(self._files[side].path, layout, version, side)

    async def publish(self, slot: WeightSlot, expected: Sequence[FloatArray]) -> dict[str, float]:
        """Load the slot into every engine and attest it there.

        An engine that read or computes otherwise takes no leases from then on and gets the version once more; when it
        still disagrees, its worker is retired, and whoever watches over workers replaces it. So is a worker that is
        lost meanwhile. Reads only the slot: the learner may train on.

        Args:
            slot: A staged version.
            expected: [L-1] per probe sequence: the learner's log-probs under these weights.

        Returns:
            `sync_s`, the seconds until all engines ran on the version; `attest_s`, how long the probe took after that;
            `probe_max_diff` over all engines; `engines`, how many there are; and `probe_moved`, how far the learner's
            own probe moved since the last version: below the tolerance, the probe cannot tell the two versions apart
            (checksums still do).

        Raises:
            WeightsMissing: No engine could fetch the version, so the fault is at its source.
        """
        async with self._busy:
            began = time.monotonic()
            moved = _max_diff(expected, self._expected) if self._expected else 0.0
            self._current, self._expected = slot, list(expected)
            resent: set[str] = set()
            await self._from_each(lambda name, worker: self._load(name, worker, slot, resent))
            self._sides = {version: side for version, side in self._sides.items() if version >= slot.version}
            seconds = time.monotonic() - began
            diffs = await self._from_each(lambda name, worker: self._attest(name, worker, slot, resent))
            return {
                "sync_s": seconds,
                "attest_s": time.monotonic() - began - seconds,
                "probe_max_diff": max(diffs, default=0.0),
                "probe_moved": moved,
                "engines": float(len(self._workers)),
            }

    async def join(self, name: str, worker: Worker) -> None:
        """Take in a worker: it has the current version, attested, when this returns; else it is retired.

        Before the first version there is nothing to bring: a worker that already has one from elsewhere keeps it, if
        it was attested. While a version is being published this waits for its end.

        Raises:
            WeightsMissing: It could not fetch the version; it is not retired, for the fault may be at the source.
        """
        async with self._busy:
            self._workers[name] = worker
            try:
                if self._current:
                    resent: set[str] = set()
                    await self._load(name, worker, self._current, resent)
                    await self._attest(name, worker, self._current, resent)
                else:
                    await within(self._call_timeout_s, worker.forsaken(), f"a fresh broadcaster waits for {name}")
            except WeightsMissing:
                await self.leave(name)
                raise
            except _FAILURES as error:
                await self._retire(name, str(error))
                raise

    async def leave(self, name: str) -> None:
        """Forget a worker that ended."""
        self._workers.pop(name, None)

    async def close(self) -> None:
        """Free the shared memory. Safe to call twice."""
        for file in self._files.values():
            file.close()

    async def _from_each(self, ask: Callable[[str, Worker], Awaitable[T]]) -> list[T]:
        """Ask all workers at once; whoever fails is forgotten and retired, and whoever watches over workers acts.

        Raises `WeightsMissing` when nobody succeeded and somebody could not fetch: those engines are left as they are.
        """
        names = list(self._workers)
        answers = await asyncio.gather(*(ask(name, self._workers[name]) for name in names), return_exceptions=True)
        given: list[T] = []
        failed: dict[str, str] = {}
        missing: dict[str, WeightsMissing] = {}
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, WeightsMissing):
                missing[name] = answer
            elif isinstance(answer, _FAILURES):
                failed[name] = str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                given.append(answer)
        if given:  # the source gives, so it is the engine that cannot take
            failed |= {name: str(error) for name, error in missing.items()}
        for name, reason in failed.items():
            logger.warning("%s is left out: %s", name, reason)
        await asyncio.gather(*(self._retire(name, reason) for name, reason in failed.items()))
        if missing and not given:
            raise next(iter(missing.values()))
        return given

    async def _retire(self, name: str, reason: str) -> None:
        worker = self._workers.pop(name, None)
        if worker:
            with contextlib.suppress(PeerLost, DeadlineExceeded):  # then it delivers nothing either
                await within(self._call_timeout_s, worker.retire(reason), f"retirement waits for {name}")

    async def _load(self, name: str, worker: Worker, slot: WeightSlot, resent: set[str]) -> None:
        try:
            await self._load_once(name, worker, slot)
        except (WeightsDisagree, WeightsMissing) as error:
            await self._resend(name, worker, slot, resent, error)

    async def _attest(self, name: str, worker: Worker, slot: WeightSlot, resent: set[str]) -> float:
        """How far the worker's probe is from the learner's: at most the tolerance."""
        try:
            diff = await self._probe_once(name, worker, slot.version)
        except WeightsDisagree as error:
            await self._resend(name, worker, slot, resent, error)
            diff = await self._probe_once(name, worker, slot.version)
        what = f"the word that {slot.version} is attested waits for {name}"
        await within(self._call_timeout_s, worker.attested(slot.version), what)
        return diff

    async def _resend(
        self, name: str, worker: Worker, slot: WeightSlot, resent: set[str], error: WeightsDisagree | WeightsMissing
    ) -> None:
        """Bring a version once more to a worker; twice, raise `error`.

        An engine that was found wrong takes no leases until it is attested; one that got nothing is what it was.
        """
        if name in resent:
            raise error
        resent.add(name)
        logger.warning("version %d is sent to %s once more: %s", slot.version, name, error)
        if isinstance(error, WeightsDisagree):
            await within(self._call_timeout_s, worker.quarantine(str(error)), f"quarantine waits for {name}")
        await self._load_once(name, worker, slot)

    async def _load_once(self, name: str, worker: Worker, slot: WeightSlot) -> None:
        what = f"version {slot.version} waits for {name}"
        if (label := await within(self._transfer_timeout_s, worker.load_weights(slot), what)) != slot.version:
            raise WeightsDisagree(f"{name} labels tokens with version {label} after loading {slot.version}")

    async def _probe_once(self, name: str, worker: Worker, version: int) -> float:
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
    # Python's `max` would pass over a NaN that does not come first.
    return float(np.max([np.abs(a - b).max() for a, b in zip(some, others, strict=True)]))
