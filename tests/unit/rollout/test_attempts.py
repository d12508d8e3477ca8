"""A prompt that ends its workers: how often it is tried, and what becomes of it."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.buffer import RolloutBuffer
from rollout.audit import audit
from rollout.config import RolloutConfig
from rollout.records import EvalCounts, GroupKey, GroupProgress, Lease, Piece, Prompt, RolloutGroup, Segment
from rollout.storage import LocalDisk

TRAIN = [Prompt(f"p{i}", f"problem {i}", (1, 2), str(i)) for i in range(6)]
HELD_OUT = [Prompt(f"e{i}", f"held out {i}", (3,), str(i), tag="hard") for i in range(2)]
CONFIG = RolloutConfig(group_size=2, groups_per_step=2, max_staleness=0, max_concurrent=8, max_attempts=3)
ANY_VERSION = 10**6
MakeGroup = Callable[..., RolloutGroup]


@contextmanager
def opened(journal: LocalDisk, config: RolloutConfig = CONFIG) -> Iterator[RolloutBuffer]:
    """A buffer that is killed at the end of the block: the files stay as they are, the lock goes with the process."""
    buffer = RolloutBuffer(journal, TRAIN, HELD_OUT, config, 5, 30.0)
    try:
        yield buffer
    finally:
        buffer._books._journal._lock.close()


async def lose(buffer: RolloutBuffer, times: int) -> GroupKey:
    """The group that is first in line loses its worker so often; each had a token of its first answer."""
    key = None
    for number in range(times):
        [lease] = await buffer.lease("w", ANY_VERSION, 1, 0)
        assert lease.key == (key or lease.key)
        key = lease.key
        token = Piece(0, "answer", lease.pieces[0].end if number else 0, Segment.of([7], [-0.5], [0], None))
        await buffer.report("w", [GroupProgress(lease.key, lease.attempt, (token,))])
        await buffer.worker_lost("w")
    assert key is not None
    return key


async def first(buffer: RolloutBuffer) -> Lease:
    [lease] = await buffer.lease("v", ANY_VERSION, 1, 0)
    return lease


def test_a_group_whose_workers_are_lost_max_attempts_times_is_dropped_and_gives_its_slot_back(tmp_path: Path, caplog):
    async def test() -> None:
        with opened(LocalDisk(tmp_path)) as buffer, caplog.at_level(logging.WARNING):
            await buffer.begin_rl(0, steps=2, version=0)
            key = await lose(buffer, 3)
            others = [lease.key for lease in await buffer.lease("v", ANY_VERSION, 9, 0)]
            assert key not in others
            assert len(others) == CONFIG.groups_per_step
            assert (await buffer.status()).dropped == {"failed": 1}
            assert (await buffer.status()).unfinished == 0
            assert f"train/0/{key.prompt_id} was leased to 3 workers that were lost" in caplog.text
            await buffer.close()

    asyncio.run(test())
    found = audit(LocalDisk(tmp_path), {"rl": 2}, 0)
    assert found.faults == ()
    assert found.run.groups == {"issued": 3, "dropped/failed": 1, "running": 2}
    assert found.run.samples == {"issued": 6, "dropped/undelivered": 2, "running": 4, "discarded/failed": 1}
    assert found.run.untrained() == {"discarded/failed": 3}


def test_interruptions_and_expiries_cost_no_attempt(tmp_path: Path):
    async def test() -> None:
        with opened(LocalDisk(tmp_path)) as buffer:
            await buffer.begin_rl(0, steps=2, version=0)
            key = await lose(buffer, 2)
            for reason in ("interrupted", "given_back", "expired"):
                lease = await first(buffer)
                assert lease.key == key
                await buffer.give_back("v", [GroupProgress(key, lease.attempt)], reason)
            assert (await first(buffer)).key == key

    asyncio.run(test())


def test_attempts_are_counted_over_restarts(tmp_path: Path):
    async def test() -> None:
        lost = []
        for times in (1, 1, 1, 0):
            with opened(LocalDisk(tmp_path)) as buffer:
                await buffer.begin_rl(0, steps=2, version=0)
                if times:
                    lost.append(await lose_once_more(buffer))
                    await buffer._books.sync()
                else:
                    assert (await first(buffer)).key not in lost
        assert len(set(lost)) == 1

    async def lose_once_more(buffer: RolloutBuffer) -> GroupKey:
        [lease] = await buffer.lease("w", ANY_VERSION, 1, 0)
        await buffer.worker_lost("w")
        return lease.key

    asyncio.run(test())


def test_the_answers_of_a_held_out_group_that_is_given_up_count_as_failed_also_after_a_restart(
    tmp_path: Path, make_group: MakeGroup
):
    wanted = EvalCounts("e0", "hard", attempts=4, correct=0, failed=4, truncated=0, tokens=0)

    async def test() -> None:
        with opened(LocalDisk(tmp_path)) as buffer:
            await buffer.begin_eval(0, samples=4, temperature=1.0, limit=None)
            assert await lose(buffer, 3) == GroupKey("eval", 0, "e0")
            lease = await first(buffer)
            assert lease.key.prompt_id == "e1"
            waiting = asyncio.create_task(buffer.eval_result(5))
            await buffer.finish("v", lease.attempt, make_group("e1", (1.0, 0.0, 0.0, 0.0), purpose="eval"))
            assert (await waiting)[0] == wanted
        with opened(LocalDisk(tmp_path)) as buffer:
            await buffer.begin_eval(0, samples=4, temperature=1.0, limit=None)
            assert await buffer.lease("v", ANY_VERSION, 9, 0) == []
            assert (await buffer.eval_result(1))[0] == wanted
            await buffer.close()

    asyncio.run(test())
    assert audit(LocalDisk(tmp_path), {"eval": 4}, 0).faults == ()


def test_who_waits_for_an_evaluation_hears_that_its_last_group_was_given_up(tmp_path: Path):
    async def test() -> None:
        with opened(LocalDisk(tmp_path)) as buffer:
            await buffer.begin_eval(0, samples=4, temperature=1.0, limit=1)
            await lose(buffer, 3)
            waiting = asyncio.create_task(buffer.eval_result(5))
            await asyncio.sleep(0)
            assert await buffer.lease("v", ANY_VERSION, 1, 0) == []
            assert [counts.failed for counts in await asyncio.wait_for(waiting, 1)] == [4]

    asyncio.run(test())
