import asyncio

import numpy as np
import pytest

from actors.broadcaster import WeightBroadcaster, WeightsDisagree
from actors.waiting import DeadlineExceeded
from rollout.weights import WeightLayout

LAYOUT = WeightLayout.of([("a", "float32", (2, 3))])
PROBE = [np.arange(4, dtype=np.int32)]


class FakeWorker:
    """An engine that computes with whatever the slot's version says, unless it is told to keep old weights."""

    def __init__(self, keeps_old_weights: bool = False, delay: float = 0.0) -> None:
        self.keeps_old_weights, self.delay, self.weights = keeps_old_weights, delay, 0

    async def load_weights(self, slot):
        await asyncio.sleep(self.delay)
        if not self.keeps_old_weights:
            self.weights = slot.version
        return slot.version  # the label is right even where the weights are not

    async def probe(self, sequences):
        return [np.full(len(s) - 1, -float(self.weights), np.float32) for s in sequences]


def publish(workers, version=1, timeout=1.0):
    async def run():
        broadcaster = WeightBroadcaster(workers, PROBE, tolerance=1e-3, call_timeout_s=timeout)
        slot = await broadcaster.claim(LAYOUT, version)
        try:
            return await broadcaster.publish(slot, [np.full(3, -float(version), np.float32)])
        finally:
            await broadcaster.close()

    return asyncio.run(run())


def test_an_engine_that_computes_with_the_published_weights_is_attested():
    report = publish({"w0": FakeWorker(), "w1": FakeWorker()})
    assert report["probe_max_diff"] == 0.0


def test_an_engine_that_labels_the_version_but_keeps_old_weights_is_found_out_and_named():
    with pytest.raises(WeightsDisagree, match="w1 does not compute with version 1"):
        publish({"w0": FakeWorker(), "w1": FakeWorker(keeps_old_weights=True)})


def test_an_engine_that_does_not_answer_is_named_at_the_deadline():
    with pytest.raises(DeadlineExceeded, match="version 1 waits for slow"):
        publish({"slow": FakeWorker(delay=5)}, timeout=0.05)


def test_versions_only_grow_and_neighbours_use_different_memory():
    async def run():
        broadcaster = WeightBroadcaster({"w": FakeWorker()}, PROBE, 1e-3, 1.0)
        first = await broadcaster.claim(LAYOUT, 1)
        await broadcaster.publish(first, [np.full(3, -1.0, np.float32)])
        second = await broadcaster.claim(LAYOUT, 2)
        assert first.path != second.path
        with pytest.raises(ValueError, match="version numbers only grow: 1 is published, 1 was asked for"):
            await broadcaster.claim(LAYOUT, 1)
        with open(second.path, "rb") as file:
            assert len(file.read()) == LAYOUT.nbytes
        await broadcaster.close()

    asyncio.run(run())
