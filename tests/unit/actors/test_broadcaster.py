import asyncio

import numpy as np
import pytest
from virtual_time import run_virtually

from actors.broadcaster import WeightBroadcaster, publish_timeout_s
from actors.waiting import PeerLost
from rollout.engine import WeightsDisagree, WeightsMissing
from rollout.weights import RowSource, WeightLayout

LAYOUT = WeightLayout.of([("a", "float32", (2, 3))])
PROBE = [np.arange(4, dtype=np.int32)]


class FakeWorker:
    """An engine that computes with whatever version arrived; the first `misses` loads do not arrive."""

    def __init__(self, misses: int = 0, delay: float = 0.0) -> None:
        self.misses, self.delay, self.weights, self.retired = misses, delay, 0, ""
        self.quarantines: list[str] = []
        self.trusted: list[int] = []
        self.forsaken_times = 0

    async def forsaken(self):
        self.forsaken_times += 1

    async def load_weights(self, slot):
        await asyncio.sleep(self.delay)
        self.misses -= 1
        if self.misses < 0:
            self.weights = slot.version
        return slot.version  # the label is right even where the weights are not

    async def probe(self, sequences):
        return [np.full(len(s) - 1, -float(self.weights), np.float32) for s in sequences]

    async def attested(self, version):
        assert self.weights == version
        self.trusted.append(version)

    async def quarantine(self, reason):
        self.quarantines.append(reason)

    async def retire(self, reason):
        self.retired = reason


def publish(workers, version=1, timeout=1.0):
    async def run():
        broadcaster = WeightBroadcaster(PROBE, 1e-3, call_timeout_s=1.0, transfer_timeout_s=timeout)
        for name, worker in workers.items():
            await broadcaster.join(name, worker)
        slot = await broadcaster.claim(LAYOUT, version)
        try:
            return await broadcaster.publish(slot, [np.full(3, -float(version), np.float32)])
        finally:
            await broadcaster.close()

    return run_virtually(run())


def test_an_engine_that_computes_with_the_published_weights_is_attested():
    report = publish({"w0": FakeWorker(), "w1": FakeWorker()})
    assert report["probe_max_diff"] == 0.0


def test_an_engine_that_missed_the_weights_gets_them_once_more():
    worker = FakeWorker(misses=1)
    report = publish({"w0": FakeWorker(), "w1": worker})
    assert (worker.weights, worker.retired, report["engines"]) == (1, "", 2.0)
    [reason] = worker.quarantines
    assert "w1 does not compute with version 1" in reason


def test_an_engine_that_labels_the_version_but_keeps_old_weights_is_found_out_and_retired_with_the_reason():
    worker = FakeWorker(misses=2)
    report = publish({"w0": FakeWorker(), "w1": worker})
    assert report["engines"] == 1.0
    assert report["probe_max_diff"] == 0.0  # of those that are still there
    assert worker.trusted == []
    assert worker.retired.startswith("w1 does not compute with version 1: log-probs of the probe differ")


class NanWorker(FakeWorker):
    """An engine that computes NaN for the last probe sequence alone."""

    async def probe(self, sequences):
        *good, last = await super().probe(sequences)
        return [*good, np.full_like(last, np.nan)]


def test_an_engine_that_computes_nan_in_any_probe_sequence_is_not_attested():
    async def run():
        broadcaster = WeightBroadcaster(PROBE * 2, 1e-3, 1.0, 1.0)
        await broadcaster.join("w", worker := NanWorker())
        await broadcaster.publish(await broadcaster.claim(LAYOUT, 1), [np.full(3, -1.0, np.float32)] * 2)
        await broadcaster.close()
        return worker

    worker = run_virtually(run())
    assert worker.trusted == []
    assert "differ from the learner's by nan" in worker.retired


def test_an_engine_that_does_not_answer_is_named_at_the_deadline_and_left_out(caplog):
    slow = FakeWorker(delay=5)
    assert publish({"slow": slow, "w": FakeWorker()}, timeout=0.05)["engines"] == 1.0
    assert "version 1 waits for slow: no answer in 0.05 s" in caplog.text
    assert "no answer" in slow.retired  # or it would go on with old weights for ever


def test_versions_only_grow_and_neighbours_use_different_memory():
    async def run():
        broadcaster = WeightBroadcaster(PROBE, 1e-3, 1.0, 1.0)
        await broadcaster.join("w", FakeWorker())
        first = await broadcaster.claim(LAYOUT, 1)
        await broadcaster.publish(first, [np.full(3, -1.0, np.float32)])
        second = await broadcaster.claim(LAYOUT, 2)
        assert first.path != second.path
        with pytest.raises(ValueError, match="version numbers only grow: 1 is published, 1 was asked for"):
            await broadcaster.claim(LAYOUT, 1)
        with open(second.path, "rb") as file:
            assert len(file.read()) == LAYOUT.nbytes
        await broadcaster.close()

    run_virtually(run())


class LostWorker(FakeWorker):
    async def load_weights(self, slot):
        raise PeerLost("w1 died during load_weights")


def test_a_worker_that_is_lost_during_a_sync_is_left_out_and_the_others_go_on():
    report = publish({"w0": FakeWorker(), "w1": LostWorker()})
    assert report["engines"] == 1.0


def test_a_worker_that_joins_has_the_current_version_attested_before_it_belongs():
    async def run():
        broadcaster = WeightBroadcaster(PROBE, 1e-3, 1.0, 1.0)
        await broadcaster.join("w0", FakeWorker())
        newcomer = FakeWorker()
        await broadcaster.join("early", FakeWorker())  # before the first version there is nothing to bring
        await broadcaster.publish(await broadcaster.claim(LAYOUT, 4), [np.full(3, -4.0, np.float32)])
        await broadcaster.join("w1", newcomer)
        assert newcomer.weights == 4
        with pytest.raises(WeightsDisagree, match="w2 does not compute with version 4"):
            await broadcaster.join("w2", FakeWorker(misses=9))
        await broadcaster.leave("early")
        report = await broadcaster.publish(await broadcaster.claim(LAYOUT, 5), [np.full(3, -5.0, np.float32)])
        assert report["engines"] == 2.0
        assert newcomer.weights == 5
        await broadcaster.close()

    run_virtually(run())


def test_a_worker_that_joins_before_there_is_a_version_is_told_that_its_last_one_has_no_witness():
    worker = FakeWorker()
    publish({"w0": worker})
    assert worker.forsaken_times == 1


def test_a_worker_that_cannot_join_is_retired_and_so_replaced():
    async def run():
        broadcaster = WeightBroadcaster(PROBE, 1e-3, call_timeout_s=1.0, transfer_timeout_s=1.0)
        await broadcaster.publish(await broadcaster.claim(LAYOUT, 1), [np.full(3, -1.0, np.float32)])
        worker = FakeWorker(misses=9)
        with pytest.raises(WeightsDisagree):
            await broadcaster.join("w1", worker)
        assert "does not compute with version 1" in worker.retired
        assert (await broadcaster.publish(await broadcaster.claim(LAYOUT, 2), [np.full(3, -2.0, np.float32)]))[
            "engines"
        ] == 0
        await broadcaster.close()

    run_virtually(run())


def test_a_worker_that_joins_during_a_publish_waits_and_then_has_that_version():
    async def run():
        broadcaster = WeightBroadcaster(PROBE, 1e-3, 1.0, 1.0)
        await broadcaster.join("w0", FakeWorker(delay=0.05))
        newcomer = FakeWorker()
        slot = await broadcaster.claim(LAYOUT, 3)
        publishing = asyncio.create_task(broadcaster.publish(slot, [np.full(3, -3.0, np.float32)]))
        await asyncio.sleep(0.01)
        joining = asyncio.create_task(broadcaster.join("w1", newcomer))
        await asyncio.sleep(0.01)
        assert newcomer.weights == 0
        assert (await publishing)["engines"] == 1.0
        await joining
        assert newcomer.weights == 3
        await broadcaster.close()

    run_virtually(run())


class RefusingWorker(FakeWorker):
    """An engine that finds the bytes wrong, or does not get them, the first `times` times."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__()
        self.error, self.times = error, times

    async def load_weights(self, slot):
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return await super().load_weights(slot)


def test_wrong_bytes_are_sent_once_more_in_quarantine_and_twice_is_too_often():
    disagree = WeightsDisagree("1 of 2 checksums differ, first a")
    once, twice = RefusingWorker(disagree, 1), RefusingWorker(disagree, 2)
    assert publish({"once": once, "twice": twice, "w": FakeWorker()})["engines"] == 2.0
    assert (once.weights, once.quarantines) == (1, [str(disagree)])
    assert (twice.weights, twice.retired, twice.quarantines) == (0, str(disagree), [str(disagree)])


def test_wrong_bytes_and_then_wrong_behaviour_count_together():
    worker = RefusingWorker(WeightsDisagree("checksums differ"), 1)
    worker.misses = 1  # what arrives the second time does not take effect
    publish({"w0": FakeWorker(), "w1": worker})
    assert "does not compute with version 1" in worker.retired


def test_a_version_that_no_engine_can_fetch_is_the_fault_of_its_source():
    gone = WeightsMissing("the rows of version 1 at 10.0.0.1:5: connection refused")
    workers = {"w0": RefusingWorker(gone, 9), "w1": RefusingWorker(gone, 9), "w2": LostWorker()}
    with pytest.raises(WeightsMissing, match=r"10\.0\.0\.1:5"):
        publish(workers)
    assert [worker.retired for worker in workers.values()][:2] == ["", ""]  # they go on with what they have
    assert [worker.quarantines for worker in workers.values()][:2] == [[], []]
    lonely = RefusingWorker(gone, 9)
    assert publish({"w0": lonely, "w1": FakeWorker()})["engines"] == 1.0  # the source gives, so it is the engine
    assert "connection refused" in lonely.retired


def test_a_newcomer_that_cannot_fetch_the_version_is_forgotten_and_not_retired():
    async def run():
        broadcaster = WeightBroadcaster(PROBE, 1e-3, call_timeout_s=1.0, transfer_timeout_s=1.0)
        await broadcaster.publish(await broadcaster.claim(LAYOUT, 1), [np.full(3, -1.0, np.float32)])
        worker = RefusingWorker(WeightsMissing("connection refused"), 2)
        with pytest.raises(WeightsMissing):
            await broadcaster.join("w1", worker)
        assert worker.retired == ""
        await broadcaster.join("w1", worker)  # by whoever brings the learning side up again
        assert worker.trusted == [1]
        await broadcaster.close()

    run_virtually(run())


def test_a_claim_never_hands_out_what_engines_may_still_read_and_waits_for_nobody():
    async def run():
        broadcaster = WeightBroadcaster(PROBE, 1e-3, 1.0, 1.0)
        await broadcaster.join("w", FakeWorker(delay=0.05))
        expected = [[np.full(3, -float(version), np.float32)] for version in range(5)]
        first = await broadcaster.claim(LAYOUT, 1)
        await broadcaster.publish(first, expected[1])
        second = await broadcaster.claim(LAYOUT, 2)
        assert (await broadcaster.claim(LAYOUT, 2)).path == second.path  # staging was tried again
        publishing = asyncio.create_task(broadcaster.publish(second, expected[2]))
        await asyncio.sleep(0.01)
        third = await broadcaster.claim(LAYOUT, 3)  # while engines go from the first to the second
        assert not publishing.done()
        assert len({first.path, second.path, third.path}) == 3
        await publishing
        fourth = await broadcaster.claim(LAYOUT, 4)
        assert fourth.path == first.path
        await broadcaster.publish(third, expected[3])
        await broadcaster.publish(fourth, expected[4])
        assert (await broadcaster.claim(LAYOUT, 5)).path in {second.path, third.path}
        await broadcaster.close()

    run_virtually(run())


def test_rows_that_the_ranks_serve_need_no_file_here():
    async def run():
        broadcaster = WeightBroadcaster(PROBE, 1e-3, 1.0, 1.0)
        layout = WeightLayout(LAYOUT.tensors, LAYOUT.nbytes, 1, (RowSource("10.0.0.1", 5, "secret"),))
        slot = await broadcaster.claim(layout, 1)
        assert (slot.path, slot.layout.sources) == ("", layout.sources)
        assert "secret" not in repr(slot)

    run_virtually(run())


class SlowWorker(FakeWorker):
    """One that takes all the time it may, for everything."""

    def __init__(self, call_s: float, transfer_s: float, bad_bytes: int = 0, misses: int = 0) -> None:
        super().__init__(misses, delay=transfer_s)
        self.call_s, self.bad_bytes = call_s, bad_bytes

    async def load_weights(self, slot):
        if self.bad_bytes:
            self.bad_bytes -= 1
            await asyncio.sleep(self.delay)
            raise WeightsDisagree("checksums differ")
        return await super().load_weights(slot)

    async def probe(self, sequences):
        await asyncio.sleep(self.call_s)
        return await super().probe(sequences)

    async def attested(self, version):
        await asyncio.sleep(self.call_s)
        await super().attested(version)

    async def quarantine(self, reason):
        await asyncio.sleep(self.call_s)
        await super().quarantine(reason)

    async def retire(self, reason):
        await asyncio.sleep(self.call_s)
        await super().retire(reason)


def test_the_slowest_publish_takes_no_longer_than_whoever_waits_for_it_is_told():
    call_s, transfer_s = 0.06, 0.12
    workers = {
        "wrong once": SlowWorker(call_s, transfer_s, bad_bytes=1),
        "missed once": SlowWorker(call_s, transfer_s, misses=1),
        **{f"wrong twice {i}": SlowWorker(call_s, transfer_s, bad_bytes=2) for i in range(8)},
        **{f"missed twice {i}": SlowWorker(call_s, transfer_s, misses=2) for i in range(8)},
    }

    async def run():
        broadcaster = WeightBroadcaster(PROBE, 1e-3, 2 * call_s, 2 * transfer_s)
        for name, worker in workers.items():
            await broadcaster.join(name, worker)
        slot = await broadcaster.claim(LAYOUT, 1)
        began = asyncio.get_running_loop().time()
        report = await broadcaster.publish(slot, [np.full(3, -1.0, np.float32)])
        seconds = asyncio.get_running_loop().time() - began
        await broadcaster.close()
        return report["engines"], seconds

    engines, seconds = run_virtually(run())
    assert engines == 2.0
    assert 3 * transfer_s + 7 * call_s <= seconds < publish_timeout_s(2 * call_s, 2 * transfer_s)


def test_a_transfer_may_take_longer_than_a_call():
    worker = FakeWorker(delay=0.2)

    async def run():
        broadcaster = WeightBroadcaster(PROBE, 1e-3, call_timeout_s=0.1, transfer_timeout_s=5.0)
        await broadcaster.join("w", worker)
        await broadcaster.publish(await broadcaster.claim(LAYOUT, 1), [np.full(3, -1.0, np.float32)])
        await broadcaster.close()

    run_virtually(run())
    assert (worker.trusted, worker.retired) == ([1], "")
