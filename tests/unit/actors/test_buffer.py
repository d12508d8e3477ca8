import asyncio
import dataclasses
import errno
import gc
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.buffer import RolloutBuffer
from rollout.buffer_state import NothingToTrain
from rollout.config import RolloutConfig
from rollout.datasets import write_supervised
from rollout.event_log import JournalBroken
from rollout.events import Finished, Refused, TakenUp, Trained, replay
from rollout.expert_rule import ExpertRule
from rollout.failures import TooManyFailures
from rollout.ledger import Ledger
from rollout.prompt_order import Share
from rollout.records import (
    EvalCounts,
    FinishReason,
    GroupKey,
    GroupProgress,
    Lease,
    Piece,
    Prompt,
    Rollout,
    RolloutGroup,
    Segment,
)
from rollout.seeds import sample_seed
from rollout.storage import InUse, LocalDisk
from verifiers.records import Verdict

T = TypeVar("T")
NEWEST = 10**6  # the version of an engine that is never behind
TRAIN = [Prompt(f"p{i}", f"problem {i}", (1, 2), str(i)) for i in range(10)]
HELD_OUT = [Prompt(f"e{i}", f"held out {i}", (3,), str(i), tag=f"{i} numbers") for i in range(3)]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(directory: Path, clock: Callable[[], float] = time.monotonic, **config: Any) -> RolloutBuffer:
    settings: dict[str, Any] = {"group_size": 2, "groups_per_step": 2, "max_staleness": 0, "max_concurrent": 8} | config
    return opened(
        RolloutBuffer(LocalDisk(directory / "journal"), TRAIN, HELD_OUT, RolloutConfig(**settings), 5, 30.0, clock)
    )


def answer(lease: Lease, rewards: Sequence[float | None] | None = None, version: int = 0) -> RolloutGroup:
    """What a worker delivers; by default the first sibling is right and the others are wrong."""
    rewards = rewards or [1.0] + [0.0] * (lease.num_samples - 1)
    rollouts = []
    for i, reward in enumerate(rewards):
        ids = np.array([50 + i, 9], np.int32)
        segment = Segment(ids, np.array([-0.5, -0.25], np.float32), np.full(2, version, np.int32), "stop")
        status = "error" if reward is None else "correct" if reward == 1 else "wrong"
        prompt_ids, mask = np.array(lease.prompt.token_ids, np.int32), np.ones(2, np.bool_)
        fate = "failed" if reward is None else "finished"
        verdict = Verdict(reward, status, "exact", "1")
        rollouts.append(Rollout(lease.prompt.id, i, prompt_ids, segment, mask, verdict, fate))
    return RolloutGroup(lease.key, lease.prompt, tuple(rollouts))


OPEN: list[RolloutBuffer] = []


def opened(buffer: RolloutBuffer) -> RolloutBuffer:
    OPEN.append(buffer)
    return buffer


def run(test: Callable[[], Awaitable[T]]) -> T:
    async def body() -> T:
        try:
            return await test()
        finally:
            while OPEN:
                await OPEN.pop().close()

    return asyncio.run(body())


async def step(buffer: RolloutBuffer, version: int, *, max_groups: int = 100) -> tuple[GroupKey, ...]:
    """Generate with weights `version`, train, publish the next version. Returns what was trained."""
    for lease in await buffer.lease("w", NEWEST, max_groups, 0):
        assert await buffer.finish("w", lease.attempt, answer(lease, version=version))
    info, _ = await buffer.next_batch(1)
    await buffer.trained(info.groups, version + 1)
    await buffer.new_version(version + 1)
    return info.groups


def crash(buffer: RolloutBuffer) -> None:
    """What SIGKILL leaves: the files as they are; the lock goes with the process."""
    buffer._books._journal._lock.close()
    OPEN.remove(buffer)


def report(lease: Lease, *pieces: Piece) -> list[GroupProgress]:
    return [GroupProgress(lease.key, lease.attempt, pieces)]


def tokens(sample: int, offset: int, ids: Sequence[int], version: int = 0, reason: FinishReason | None = None) -> Piece:
    return Piece(sample, "answer", offset, Segment.of(ids, [-0.5] * len(ids), [version] * len(ids), reason))


# -- leases and admission ---------------------------------------------------------------------------------------


def test_a_lease_carries_the_prompt_the_sampling_and_the_attempt(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, temperature=0.7, max_new_tokens=33)
        await buffer.begin_rl(0, steps=1, version=0)
        [lease] = await buffer.lease("w", NEWEST, 1, 0)
        assert lease.prompt in TRAIN
        assert lease.key == GroupKey("train", 0, lease.prompt.id)
        assert (lease.num_samples, lease.attempt) == (2, 0)
        assert (lease.sampling.temperature, lease.sampling.max_new_tokens, lease.sampling.seed) == (0.7, 33, 5)
        assert sample_seed(lease.sampling.seed, lease.key, 0) != sample_seed(lease.sampling.seed, lease.key, 1)

    run(test)


def test_with_no_staleness_only_one_batch_is_generated_per_version(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        await buffer.begin_rl(0, steps=3, version=4)
        leases = await buffer.lease("w", NEWEST, 100, 0)
        assert len(leases) == 2
        for lease in leases:
            await buffer.finish("w", lease.attempt, answer(lease, version=4))
        assert await buffer.lease("w", NEWEST, 100, 0) == []
        info, _ = await buffer.next_batch(1)
        await buffer.trained(info.groups, 5)
        assert await buffer.lease("w", NEWEST, 100, 0) == []  # trained, but the engines do not have the new weights yet
        await buffer.new_version(5)
        assert len(await buffer.lease("w", NEWEST, 100, 0)) == 2

    run(test)


def test_generation_runs_ahead_by_the_bound_and_never_past_the_phase(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=2)
        await buffer.begin_rl(0, steps=4, version=0)
        assert len(await buffer.lease("w", NEWEST, 100, 0)) == 6
        await buffer.end_phase()
        await buffer.begin_rl(1, steps=2, version=0)
        assert len(await buffer.lease("w", NEWEST, 100, 0)) == 4

    run(test)


def test_each_worker_adds_its_own_room(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=9, max_concurrent=4)
        await buffer.begin_rl(0, steps=50, version=0)
        assert [len(await buffer.lease(w, NEWEST, 5, 0)) for w in ("a", "b", "a")] == [5, 5, 0]

    run(test)


def test_a_waiting_worker_gets_work_as_soon_as_there_is_some(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        waiting = asyncio.create_task(buffer.lease("w", NEWEST, 5, 30))
        await asyncio.sleep(0.01)
        await buffer.begin_rl(0, steps=1, version=0)
        assert len(await asyncio.wait_for(waiting, 1)) == 2

    run(test)


def test_an_expired_lease_goes_to_another_worker_and_the_late_delivery_is_refused(tmp_path: Path):
    async def test() -> None:
        clock = Clock()
        buffer = make(tmp_path, clock)
        await buffer.begin_rl(0, steps=1, version=0)
        first, second = await buffer.lease("slow", NEWEST, 2, 0)
        clock.now += 20
        assert await buffer.report("slow", report(first)) == []
        clock.now += 20
        [again] = await buffer.lease("quick", NEWEST, 9, 0)
        assert (again.key, again.attempt) == (second.key, 1)
        assert await buffer.report("slow", report(first) + report(second)) == [second.key]
        assert not await buffer.finish("slow", second.attempt, answer(second))
        assert await buffer.finish("quick", again.attempt, answer(again))
        assert not await buffer.finish("quick", again.attempt, answer(again))  # twice
        status = await buffer.status()
        assert (status.expired, status.refused, status.ready, status.running) == (1, 2, 1, 1)

    run(test)


def test_a_worker_that_was_left_out_of_a_transfer_gets_no_work(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=1)
        await buffer.new_version(3)
        await buffer.begin_rl(0, steps=9, version=3)
        assert await buffer.lease("back from the dead", 2, 1, 60) == []  # at once
        assert len(await buffer.lease("w", 3, 1, 0)) == 1
        waiting = asyncio.create_task(buffer.lease("w", 3, 9, 0))
        assert len(await waiting) == 3

    run(test)


def test_groups_given_back_or_of_a_lost_worker_are_free_at_once_and_come_first(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=1)
        await buffer.begin_rl(0, steps=9, version=0)
        leases = await buffer.lease("w", NEWEST, 3, 0)
        await buffer.give_back("w", [*report(leases[2]), GroupProgress(GroupKey("train", 0, "not held"), 0)])
        assert [x.key for x in await buffer.lease("v", NEWEST, 1, 0)] == [leases[2].key]
        await buffer.worker_lost("w")
        assert [(x.key, x.attempt) for x in await buffer.lease("v", NEWEST, 2, 0)] == [(x.key, 1) for x in leases[:2]]
        assert (await buffer.status()).running == 3

    run(test)


# -- batches ----------------------------------------------------------------------------------------------------


def test_a_batch_has_the_oldest_groups_and_asks_twice_give_the_same(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=1)
        await buffer.begin_rl(0, steps=9, version=1)
        leases = await buffer.lease("w", NEWEST, 4, 0)
        for lease, version in zip(leases, (1, 0, 1, 0), strict=True):
            await buffer.finish("w", lease.attempt, answer(lease, version=version))
        info, batch = await buffer.next_batch(1)
        assert info.groups == (leases[1].key, leases[3].key)
        assert info.metrics["staleness_max"] == 1
        assert batch.token_ids.tolist() == [1, 2, 50, 9, 1, 2, 51, 9] * 2
        assert (await buffer.next_batch(1))[0].groups == info.groups
        await buffer.trained(info.groups, 2)
        await buffer.trained(info.groups, 2)  # the first answer was lost: saying it again changes nothing
        assert (await buffer.next_batch(1))[0].groups == (leases[0].key, leases[2].key)

    run(test)


def test_the_batch_does_not_depend_on_who_came_first(tmp_path: Path):
    async def order(directory: Path, reverse: bool) -> tuple[GroupKey, ...]:
        buffer = make(directory)
        await buffer.begin_rl(0, steps=1, version=0)
        leases = await buffer.lease("w", NEWEST, 9, 0)
        for lease in reversed(leases) if reverse else leases:
            await buffer.finish("w", lease.attempt, answer(lease))
        return (await buffer.next_batch(1))[0].groups

    assert run(lambda: order(tmp_path / "a", False)) == run(lambda: order(tmp_path / "b", True))


def test_groups_that_teach_nothing_are_dropped_with_a_reason_and_replaced(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, group_size=3)
        await buffer.begin_rl(0, steps=1, version=0)
        same, failed = await buffer.lease("w", NEWEST, 9, 0)
        assert await buffer.finish("w", same.attempt, answer(same, [1.0, 1.0, None]))
        assert await buffer.finish("w", failed.attempt, answer(failed, [None, None, 1.0]))
        replacements = await buffer.lease("w", NEWEST, 9, 0)
        assert len(replacements) == 2
        assert not {same.key, failed.key} & {lease.key for lease in replacements}
        await buffer.finish(
            "w", replacements[0].attempt, answer(replacements[0], [1.0, None, 0.0])
        )  # two siblings are enough
        await buffer.finish("w", replacements[1].attempt, answer(replacements[1]))
        status = await buffer.status()
        assert (status.dropped, status.finished, status.ready) == ({"zero_variance": 1, "failed": 1}, 4, 2)
        info, batch = await buffer.next_batch(1)
        assert batch.num_sequences == 5
        assert info.metrics["reward_generated"] == pytest.approx((2 + 1 + 1 + 1) / (2 + 1 + 2 + 3))
        assert sum(isinstance(e, Finished) for e in replay(LocalDisk(tmp_path / "journal"))) == 4  # the journal has all

    run(test)


def test_all_groups_are_kept_when_the_run_says_so(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, drop_zero_variance=False)
        await buffer.begin_rl(0, steps=1, version=0)
        for lease in await buffer.lease("w", NEWEST, 9, 0):
            await buffer.finish("w", lease.attempt, answer(lease, [1.0, 1.0]))
        assert (await buffer.status()).ready == 2

    run(test)


def test_a_token_too_old_at_consumption_drops_its_group_and_another_is_generated(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=1, wait_for_late=False)
        await buffer.begin_rl(0, steps=9, version=0)
        late, *others = await buffer.lease("w", NEWEST, 3, 0)
        for lease in others:
            await buffer.finish("w", lease.attempt, answer(lease))
        await step(buffer, 0)
        await step(buffer, 1)
        capacity = (await buffer.status()).capacity
        await buffer.finish("w", late.attempt, answer(late))  # version 0, and the next step starts from version 2
        for lease in await buffer.lease("w", NEWEST, capacity - 1, 0):
            await buffer.finish("w", lease.attempt, answer(lease, version=2))
        info, _ = await buffer.next_batch(1)
        assert late.key not in info.groups
        assert info.metrics["staleness_max"] <= 1
        status = await buffer.status()
        assert (status.dropped, status.capacity) == ({"stale": 1}, 2)  # its own slot, and the one not leased

    run(test)


def test_a_tightened_bound_holds_for_what_waits_what_is_started_and_what_goes_on_and_survives_a_crash(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=2, wait_for_late=False, groups_per_step=1)
        await buffer.begin_rl(0, steps=9, version=0)
        waiting, interrupted, trained = await buffer.lease("w", NEWEST, 9, 0)  # (η + v + 1)·B = 3
        await buffer.finish("w", trained.attempt, answer(trained))
        await buffer.next_batch(0)
        await buffer.trained([trained.key], 1)
        await buffer.new_version(1)
        await buffer.finish("w", waiting.attempt, answer(waiting))
        await buffer.give_back("w", report(interrupted, tokens(0, 0, [7])))
        await buffer.tighten(0)
        await buffer.tighten(1)  # it never rises
        with pytest.raises(TimeoutError, match="0 of 1 groups are ready"):
            await buffer.next_batch(0)
        assert (await buffer.status()).dropped == {"stale": 1}
        crash(buffer)
        buffer = make(tmp_path, max_staleness=2, wait_for_late=False, groups_per_step=1)
        await buffer.begin_rl(0, steps=9, version=1, done_steps=1)
        with pytest.raises(TimeoutError, match="0 of 1 groups are ready"):
            await buffer.next_batch(0)
        [lease] = await buffer.lease("w", NEWEST, 9, 0)  # (0 + 1 + 1)·1, and one was trained
        assert (lease.key, lease.pieces) == (interrupted.key, ())  # from nothing: its token is a version old
        await buffer.finish("w", lease.attempt, answer(lease, version=1))
        assert (await buffer.next_batch(0))[0].metrics["staleness_max"] == 0
        await buffer.begin_rl(1, steps=9, version=1)
        assert len(await buffer.lease("w", NEWEST, 9, 0)) == 3  # the bound of the next phase is the configured one

    run(test)


def test_without_staleness_rounds_are_not_over_provisioned_any_more(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=1, oversample=2.0)
        await buffer.begin_rl(0, steps=9, version=0)
        first = await buffer.lease("w", NEWEST, 9, 0)
        assert len(first) == 4
        await buffer.tighten(0)
        for lease in first[:2]:
            await buffer.finish("w", lease.attempt, answer(lease))
        assert await buffer.revoked("w", 0) == []
        for lease in first[2:]:
            await buffer.finish("w", lease.attempt, answer(lease))
        info, _ = await buffer.next_batch(0)
        await buffer.trained(info.groups, 1)
        await buffer.new_version(1)
        with pytest.raises(TimeoutError):
            await buffer.next_batch(0)  # two groups of version 0 waited, and are too old
        assert len(await buffer.lease("w", NEWEST, 9, 0)) == 2

    run(test)


def test_a_step_waits_for_an_answer_that_the_next_one_could_not_train(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=1)
        await buffer.begin_rl(0, steps=9, version=0)
        late, *others = await buffer.lease("w", NEWEST, 3, 0)
        for lease in others:
            await buffer.finish("w", lease.attempt, answer(lease))
        await step(buffer, 0)  # of version 0, as is the late one: age 0, no hurry
        for lease in await buffer.lease("w", NEWEST, 9, 0):
            await buffer.finish("w", lease.attempt, answer(lease, version=1))
        with pytest.raises(TimeoutError, match="1 that the next step could not train are awaited"):
            await buffer.next_batch(0)
        await buffer.finish("w", late.attempt, answer(late))
        assert late.key in (await buffer.next_batch(0))[0].groups
        assert (await buffer.status()).dropped == {}

    run(test)


def test_a_late_answer_is_not_interrupted_and_a_lost_one_not_awaited(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=1, oversample=2.0)
        await buffer.begin_rl(0, steps=9, version=0)
        first = await buffer.lease("w", NEWEST, 9, 0)
        for lease in first[:2]:
            await buffer.finish("w", lease.attempt, answer(lease))
        await buffer.give_back("w", report(first[2], tokens(0, 0, [7])) + report(first[3], tokens(0, 0, [7])))
        info, _ = await buffer.next_batch(0)
        await buffer.trained(info.groups, 1)
        await buffer.new_version(1)
        slow, lost, *others = await buffer.lease("w", NEWEST, 9, 0)
        assert {slow.key, lost.key} == {x.key for x in first[2:]}
        for lease in others:
            await buffer.finish("w", lease.attempt, answer(lease, version=1))
        assert await buffer.revoked("w", 0) == []  # the round is complete, and these two can wait no longer
        await buffer.give_back("w", report(lost))
        with pytest.raises(TimeoutError, match="1 that the next step could not train"):
            await buffer.next_batch(0)
        await buffer.finish("w", slow.attempt, answer(slow))
        assert slow.key in (await buffer.next_batch(0))[0].groups

    run(test)


def test_a_wait_that_fails_says_what_it_waited_for(tmp_path: Path):
    async def test() -> None:
        clock = Clock()
        buffer = make(tmp_path, clock)
        await buffer.begin_rl(0, steps=1, version=0)
        with pytest.raises(TimeoutError, match=r"0 of 2 groups are ready.*no worker has asked for work"):
            await buffer.next_batch(0.01)
        first, second = await buffer.lease("w7", NEWEST, 2, 0)
        await buffer.finish("w7", first.attempt, answer(first))
        clock.now += 12
        expected = f"1 of 2 groups are ready.*w7 runs 1 groups, the oldest .train/0/{second.key.prompt_id}. for 12 s"
        with pytest.raises(TimeoutError, match=expected):
            await buffer.next_batch(0.01)

    run(test)


def test_a_phase_in_which_nothing_can_be_learned_says_so(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        await buffer.begin_rl(0, steps=1, version=0)
        waiting = asyncio.create_task(buffer.next_batch(30))
        for _ in range(50):
            for lease in await buffer.lease("w", NEWEST, 9, 0):
                await buffer.finish("w", lease.attempt, answer(lease, [0.0, 0.0]))
        with pytest.raises(NothingToTrain, match=r"100 groups were all dropped \(\{'zero_variance': 100\}\)"):
            await asyncio.wait_for(waiting, 1)

    run(test)


def test_trained_is_durable_before_it_returns(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        await buffer.begin_rl(0, steps=2, version=0)
        for lease in await buffer.lease("w", NEWEST, 9, 0):
            await buffer.finish("w", lease.attempt, answer(lease))
        info, _ = await buffer.next_batch(1)
        await buffer.trained(info.groups, 1)
        seen = {"reward_generated": 0.5}
        assert list(replay(LocalDisk(tmp_path / "journal")))[-1] == Trained(info.groups, 1, seen=seen)

    run(test)


def test_supervised_phases_give_their_batches_in_a_fixed_order_and_can_be_taken_up(tmp_path: Path):
    path = tmp_path / "demos.parquet"
    write_supervised(path, [([1], [10 + i]) for i in range(8)])

    async def test() -> None:
        buffer = make(tmp_path)
        assert await buffer.begin_sft(str(path), 4, 1.5, 3) == 3
        batches = [(await buffer.next_batch(1))[1].token_ids.tolist() for _ in range(3)]
        assert sorted(t for b in batches[:2] for t in b if t != 1) == list(range(10, 18))
        with pytest.raises(RuntimeError, match="has 3 steps and all of them"):
            await buffer.next_batch(1)
        await buffer.end_phase()
        assert await buffer.begin_sft(str(path), 4, 1.5, 3, done_steps=2) == 3
        assert (await buffer.next_batch(1))[1].token_ids.tolist() == batches[2]

    run(test)


# -- evaluation and experts -------------------------------------------------------------------------------------


def test_an_evaluation_counts_every_held_out_prompt(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        await buffer.begin_eval(3, samples=4, temperature=0.6, limit=2)
        leases = await buffer.lease("w", NEWEST, 99, 0)
        assert [lease.key for lease in leases] == [GroupKey("eval", 3, "e0"), GroupKey("eval", 3, "e1")]
        assert {(lease.num_samples, lease.sampling.temperature) for lease in leases} == {(4, 0.6)}
        await buffer.finish("w", 0, answer(leases[1], [0.0, None, 1.0, 1.0]))
        with pytest.raises(TimeoutError, match=r"no evaluation .* 1 of 2 prompts of evaluation 3 .*w runs 1 groups"):
            await buffer.eval_result(0.01)
        waiting = asyncio.create_task(buffer.eval_result(5))
        await buffer.finish("w", 0, answer(leases[0], [0.0, 0.0, 0.0, 0.0]))
        assert await waiting == [
            EvalCounts("e0", "0 numbers", 4, 0, 0, 0, tokens=8, votes=(1, 1, 1, 1), right=(0, 0, 0, 0), nats=3.0),
            EvalCounts(
                "e1", "1 numbers", 4, 2, failed=1, truncated=0, tokens=8, votes=(1, 1, 1), right=(1, 1, 0), nats=3.0
            ),
        ]

    run(test)


def test_an_evaluation_begun_again_keeps_the_answers_it_has(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        await buffer.begin_eval(0, 2, 1.0, None)
        leases = await buffer.lease("w", NEWEST, 2, 0)
        await buffer.finish("w", 0, answer(leases[0]))
        crash(buffer)
        buffer = make(tmp_path)
        await buffer.begin_eval(0, 2, 1.0, None)
        left = await buffer.lease("w", NEWEST, 9, 0)
        assert {lease.key.prompt_id for lease in left} == {"e0", "e1", "e2"} - {leases[0].key.prompt_id}
        for lease in left:
            await buffer.finish("w", lease.attempt, answer(lease))
        assert [c.correct for c in await buffer.eval_result(1)] == [1, 1, 1]

    run(test)


def test_training_goes_on_beside_an_evaluation_which_has_half_the_room(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_concurrent=2)  # three leases of a worker may be out
        await buffer.begin_rl(0, steps=2, version=0)
        await buffer.begin_eval(7, 2, 1.0, None)
        held_out, *training = await buffer.lease("w", NEWEST, 3, 0)
        assert held_out.key == GroupKey("eval", 7, "e0")
        assert [lease.key.purpose for lease in training] == ["train", "train"]
        for lease in training:
            await buffer.finish("w", lease.attempt, answer(lease))
        info, _ = await buffer.next_batch(1)
        await buffer.trained(info.groups, 1)
        await buffer.finish("w", held_out.attempt, answer(held_out))
        await buffer.end_phase()
        for _ in range(2):  # with nothing beside it, it has all of it
            for lease in await buffer.lease("w", NEWEST, 1, 0):
                await buffer.finish("w", lease.attempt, answer(lease))
        assert [c.correct for c in await buffer.eval_result(1)] == [1, 1, 1]
        await buffer.end_eval()
        assert [c.prompt_id for c in await buffer.evaluated(7)] == ["e0", "e1", "e2"]

    run(test)


def test_a_phase_that_samples_trains_nothing_and_gives_its_successes_to_the_experts(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        assert await buffer.begin_sample(0, groups=4, version=0) == 0
        leases = await buffer.lease("w", NEWEST, 99, 0)
        assert len(leases) == 4
        with pytest.raises(TimeoutError, match=r"0 of 4 groups are sampled; w runs 4 groups"):
            await buffer.sampled(0.01)
        for lease in leases:
            await buffer.finish("w", lease.attempt, answer(lease, [1.0, 1.0]))
        assert await buffer.sampled(1) == {"reward": 1.0}
        await buffer.end_phase()
        report = await buffer.select_experts(0, ExpertRule(1.0, 16, seed=5), str(tmp_path / "0.parquet"))
        assert (report.kept, report.per_step) == (8, {0: 4, 1: 4})  # two groups are as many as a step trains

    run(test)


def test_a_phase_that_samples_goes_on_after_a_crash_with_what_is_missing(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        await buffer.begin_sample(0, groups=4, version=0)
        first, second, *_ = await buffer.lease("w", NEWEST, 3, 0)
        await buffer.finish("w", first.attempt, answer(first))
        await buffer.report("w", report(second, tokens(0, 0, [5, 6])))
        crash(buffer)
        buffer = make(tmp_path)
        assert await buffer.begin_sample(0, groups=4, version=0) == 1
        leases = await buffer.lease("w", NEWEST, 99, 0)
        assert len(leases) == 3
        assert leases[0].key == second.key
        assert [piece.end for piece in leases[0].pieces] == [2]

    run(test)


def test_a_step_that_ends_its_phase_lets_nothing_more_start_and_says_so_again_after_a_crash(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=1)
        await buffer.begin_rl(0, steps=9, version=0)
        for lease in await buffer.lease("w", NEWEST, 2, 0):
            await buffer.finish("w", lease.attempt, answer(lease))
        info, _ = await buffer.next_batch(1)
        await buffer.trained(info.groups, 1, ends="it forgets")
        await buffer.new_version(1)
        assert await buffer.lease("w", NEWEST, 99, 0) == []
        crash(buffer)
        buffer = make(tmp_path, max_staleness=1)
        await buffer.begin_rl(0, steps=9, version=0)
        assert await buffer.lease("w", NEWEST, 99, 0) == []
        again, _ = await buffer.next_batch(1)
        assert (again.groups, again.recorded, again.ends) == (info.groups, 1, "it forgets")

    run(test)


def test_what_a_phase_forgets_and_how_it_narrows_is_in_its_batches_also_after_a_crash(tmp_path: Path):
    async def test() -> None:
        def begun(buffer: RolloutBuffer, version: int, done: int):
            return buffer.begin_rl(0, steps=20, version=version, done_steps=done)

        buffer = make(tmp_path, drop_zero_variance=False)
        await begun(buffer, 0, 0)
        for version in range(5):  # two prompts a step: once through all ten of them, all solved
            await step(buffer, version)
        for lease in await buffer.lease("w", NEWEST, 2, 0):  # the first two again, now in vain, with the same answers
            await buffer.finish("w", lease.attempt, answer(lease, [0.0, 0.0], version=5))
        before, _ = await buffer.next_batch(1)
        assert before.metrics["forgetting"] == 1.0
        assert before.metrics["inter_step_diversity"] == pytest.approx(0.5)  # [50 9] and [51 9]: half the pairs agree
        crash(buffer)
        buffer = make(tmp_path, drop_zero_variance=False)
        await begun(buffer, 5, 5)
        after, _ = await buffer.next_batch(1)
        names = ("forgetting", "inter_step_diversity", "reward_generated")
        assert [after.metrics[name] for name in names] == [before.metrics[name] for name in names]
        await buffer.trained(after.groups, 6)
        crash(buffer)
        buffer = make(tmp_path, drop_zero_variance=False)
        await begun(buffer, 5, 5)
        again, _ = await buffer.next_batch(1)  # a step on record brings what was seen when it was trained first
        assert again.recorded == 1
        assert [again.metrics[name] for name in names] == [before.metrics[name] for name in names]

    run(test)


def test_a_visit_without_any_verdict_is_not_forgetting(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, drop_zero_variance=False)
        await buffer.begin_rl(0, steps=20, version=0)
        for version in range(5):
            await step(buffer, version)
        for lease in await buffer.lease("w", NEWEST, 2, 0):
            await buffer.finish("w", lease.attempt, answer(lease, [None, None], version=5))
        for lease in await buffer.lease("w", NEWEST, 2, 0):
            await buffer.finish("w", lease.attempt, answer(lease, [1.0, 0.0], version=5))
        info, _ = await buffer.next_batch(1)
        assert info.metrics["forgetting"] == 0.0

    run(test)


def test_the_experts_of_the_last_step_are_those_that_it_trained(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=1)
        await buffer.begin_rl(0, steps=2, version=0)
        for lease in await buffer.lease("w", NEWEST, 4, 0):  # both steps' groups come in before the first is trained
            await buffer.finish("w", lease.attempt, answer(lease))
        infos = []
        for version in (1, 2):
            info, _ = await buffer.next_batch(1)
            await buffer.trained(info.groups, version)
            infos.append(info)
        await buffer.end_phase()
        rule = ExpertRule(1.0, 16, seed=5, last_steps=1)
        report = await buffer.select_experts(0, rule, str(tmp_path / "0.parquet"))
        assert report.kept == 2
        kept = set(pq.read_table(tmp_path / "0.parquet")["prompt_id"].to_pylist())
        assert kept == {key.prompt_id for key in infos[1].groups}

    run(test)


def test_experts_are_the_successes_of_the_phase_dropped_groups_included(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        await buffer.begin_rl(0, steps=1, version=0)
        solved, *_ = leases = await buffer.lease("w", NEWEST, 9, 0)
        await buffer.finish("w", solved.attempt, answer(solved, [1.0, 1.0]))
        for lease in [*leases[1:], *await buffer.lease("w", NEWEST, 9, 0)]:
            await buffer.finish("w", lease.attempt, answer(lease))
        info, _ = await buffer.next_batch(1)
        await buffer.trained(info.groups, 1)
        await buffer.end_phase()
        report = await buffer.select_experts(0, ExpertRule(1.0, 16, seed=5), str(tmp_path / "experts" / "0.parquet"))
        assert (report.correct, report.kept, report.prompts, report.prompts_solved) == (4, 4, 3, 3)
        assert await buffer.begin_sft(str(tmp_path / "experts" / "0.parquet"), 4, 1.0, 0) == 1

    run(test)


# -- restarts ---------------------------------------------------------------------------------------------------


def test_the_next_phase_goes_on_where_the_prompts_were_and_repeats_none(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        trained: list[GroupKey] = []
        for iteration in range(2):
            await buffer.begin_rl(iteration, steps=2, version=iteration * 2)
            for version in range(iteration * 2, iteration * 2 + 2):
                trained += await step(buffer, version)
            await buffer.end_phase()
        await buffer.begin_rl(2, steps=9, version=4)
        trained += await step(buffer, 4)
        assert sorted(key.prompt_id for key in trained) == sorted(p.id for p in TRAIN)  # one whole epoch
        assert {key.epoch for key in trained} == {0}
        assert {lease.key.epoch for lease in await buffer.lease("w", NEWEST, 9, 0)} == {1}

    run(test)


def test_after_a_kill_nothing_is_skipped_or_repeated_and_finished_groups_are_kept(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=2)
        await buffer.begin_rl(0, steps=5, version=0)
        trained = [*await step(buffer, 0, max_groups=2)]
        leases = await buffer.lease("w", NEWEST, 4, 0)
        for lease in leases[:3]:
            await buffer.finish("w", lease.attempt, answer(lease, version=1))
        crash(buffer)
        del buffer
        gc.collect()

        buffer = make(tmp_path, max_staleness=2)
        await buffer.begin_rl(0, steps=5, version=1, done_steps=1)
        status = await buffer.status()
        assert (status.ready, status.running, status.accepted) == (3, 0, 2 + 3)
        info, batch = await buffer.next_batch(1)
        assert set(info.groups) < {lease.key for lease in leases[:3]}
        assert batch.token_ids.tolist() == [1, 2, 50, 9, 1, 2, 51, 9] * 2
        assert batch.behaviour_logprobs[2:4].tolist() == [-0.5, -0.25]
        trained += info.groups
        await buffer.trained(info.groups, 2)
        await buffer.new_version(2)
        [first] = await buffer.lease("w", NEWEST, 1, 0)
        assert (first.key, first.attempt) == (leases[3].key, 1)  # what was running is leased again, first
        await buffer.finish("w", first.attempt, answer(first, version=2))
        for version in (2, 3, 4):
            trained += await step(buffer, version)
        assert sorted(key.prompt_id for key in trained) == sorted(p.id for p in TRAIN)
        assert {key.epoch for key in trained} == {0}
        await buffer.close()

    run(test)


def test_steps_after_the_checkpoint_are_trained_again_on_the_same_groups_and_nothing_is_lost(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=1)
        await buffer.begin_rl(0, steps=5, version=10)
        for lease in await buffer.lease("w", NEWEST, 4, 0):
            await buffer.finish("w", lease.attempt, answer(lease, version=10))
        done, batches = [], []
        for version in (11, 12):  # two steps; the checkpoint is of the phase's start
            info, batch = await buffer.next_batch(1)
            await buffer.trained(info.groups, version)
            await buffer.new_version(version)
            done.append(info.groups)
            batches.append(batch)
        later = await buffer.lease("w", NEWEST, 2, 0)
        for lease in later:
            await buffer.finish("w", lease.attempt, answer(lease, version=12))
        crash(buffer)

        buffer = make(tmp_path, max_staleness=1)
        await buffer.new_version(10)
        await buffer.begin_rl(0, steps=5, version=10)
        assert (await buffer.status()).ready == 2  # what the lost weights sampled is no less an answer
        events = len(list(replay(LocalDisk(tmp_path / "journal"))))
        for number, version in enumerate((11, 12)):
            info, batch = await buffer.next_batch(1)
            assert (info.groups, info.recorded) == (done[number], 2 - number)
            for field in dataclasses.fields(batch):
                assert np.array_equal(getattr(batch, field.name), getattr(batches[number], field.name))
            await buffer.trained(info.groups, version)
            await buffer.trained(info.groups, version)  # said twice
            await buffer.new_version(version)
        assert len(list(replay(LocalDisk(tmp_path / "journal")))) == events  # on the record already
        info, _ = await buffer.next_batch(1)
        assert (set(info.groups), info.recorded) == ({x.key for x in later}, 0)

    run(test)


def test_a_recorded_step_cannot_be_replaced_by_another_nor_skipped(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        await buffer.begin_rl(0, steps=3, version=0)
        trained = await step(buffer, 0)
        await step(buffer, 1)
        crash(buffer)
        buffer = make(tmp_path)
        await buffer.begin_rl(0, steps=3, version=0)
        with pytest.raises(ValueError, match="is recorded and must be trained again"):
            await buffer.trained(trained[::-1], 1)
        with pytest.raises(ValueError, match="makes the next version, 1 here, got 2"):
            await buffer.trained(trained, 2)

    run(test)


def test_a_checkpoint_that_the_journal_knows_nothing_of_is_refused(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        with pytest.raises(ValueError, match=r"the checkpoint has 2 steps .* has 0 \*trained\* records"):
            await buffer.begin_rl(0, steps=3, version=2, done_steps=2)

    run(test)


def test_while_the_learner_is_brought_back_leases_go_on_up_to_the_bound_and_its_steps_come_again(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=2)
        await buffer.begin_rl(0, steps=9, version=10)
        done = [await step(buffer, 10, max_groups=2), await step(buffer, 11, max_groups=3)]
        running = await buffer.lease("w", NEWEST, 1, 0)
        before = await buffer.status()
        assert await buffer.take_up(0, version=10, done_steps=0) == 2
        assert await buffer.status() == before
        assert await buffer.finish("w", running[0].attempt, answer(running[0], version=12))
        more = await buffer.lease("w", NEWEST, 99, 0)
        assert len(more) == (2 + 12 + 1) * 2 - 12 * 2 - 2  # the bound, from the version that the engines have
        for number, version in enumerate((11, 12)):
            info, _ = await buffer.next_batch(1)
            assert (info.groups, info.recorded) == (done[number], 2 - number)
            await buffer.trained(info.groups, version)
        await buffer.new_version(12)
        info, _ = await buffer.next_batch(1)
        assert info.recorded == 0
        assert running[0].key in info.groups
        await buffer.trained(info.groups, 13)
        events = list(replay(LocalDisk(tmp_path / "journal")))
        assert [event.version for event in events if isinstance(event, Trained)] == [11, 12, 13]
        assert TakenUp(0, 10, 0) in events

    run(test)


def test_answers_that_finish_meanwhile_belong_to_the_step_after_all_that_are_recorded(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=2)
        await buffer.begin_rl(0, steps=9, version=0)
        await step(buffer, 0, max_groups=2)
        await step(buffer, 1, max_groups=2)
        await buffer.take_up(0, version=0, done_steps=0)
        for lease in await buffer.lease("w", NEWEST, 2, 0):
            await buffer.finish("w", lease.attempt, answer(lease, version=2))
        report = await buffer.select_experts(0, ExpertRule(1.0, 9, seed=5), str(tmp_path / "experts.parquet"))
        assert report.per_step == {0: 2, 1: 2, 2: 2}

    run(test)


def test_a_late_word_of_a_controller_that_is_gone_does_not_count_for_the_next(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=1)
        await buffer.begin_rl(0, steps=9, version=0)
        done = [await step(buffer, 0, max_groups=2), await step(buffer, 1, max_groups=2)]
        assert await buffer.take_up(0, version=0, done_steps=0) == 2
        with pytest.raises(ValueError, match="a step trains the batch that was given last"):
            await buffer.trained(done[0], 1)
        info, _ = await buffer.next_batch(1)
        assert info.groups == done[0]
        await buffer.trained(done[0], 1)
        assert (await buffer.next_batch(1))[0].groups == done[1]

    run(test)


def test_what_a_controller_that_is_gone_had_begun_ends_before_the_next_one_begins(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=1)
        await buffer.begin_rl(0, steps=9, version=0)
        await step(buffer, 0, max_groups=2)
        crash(buffer)
        buffer = make(tmp_path, max_staleness=1)
        old = asyncio.create_task(buffer.begin_rl(0, steps=9, version=0))  # it reads what was trained
        await asyncio.sleep(0)
        assert await buffer.take_up(0, version=0, done_steps=0) == 1
        await old
        assert (await buffer.next_batch(1))[0].recorded == 1
        experts = (
            buffer.select_experts(0, ExpertRule(1.0, 9, seed=5), str(tmp_path / "experts.parquet")) for _ in range(2)
        )
        one, other = await asyncio.gather(*experts)
        assert one == other

    run(test)


def test_a_phase_that_is_not_under_way_is_not_taken_up(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        assert await buffer.take_up(0, version=0, done_steps=0) is None
        await buffer.begin_rl(0, steps=3, version=0)
        assert await buffer.take_up(1, version=0, done_steps=0) is None
        with pytest.raises(ValueError, match=r"the checkpoint has 1 steps .* has 0 \*trained\* records"):
            await buffer.take_up(0, version=1, done_steps=1)
        await buffer.end_phase()
        assert await buffer.take_up(0, version=0, done_steps=0) is None

    run(test)


# -- unfinished answers -----------------------------------------------------------------------------------------


def test_what_a_dead_worker_reported_goes_on_elsewhere(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        await buffer.begin_rl(0, steps=1, version=0)
        [lease] = await buffer.lease("w", NEWEST, 1, 0)
        verdict = Verdict(1.0, "correct", "exact", "1")
        await buffer.report("w", report(lease, tokens(0, 0, [7, 8]), tokens(1, 0, [9], reason="stop")))
        await buffer.report("w", report(lease, tokens(0, 2, [5]), Piece(1, "answer", 1, Segment.empty(), verdict)))
        await buffer.worker_lost("w")
        [again] = await buffer.lease("v", NEWEST, 1, 0)
        first, second = again.pieces
        assert (first.segment.token_ids.tolist(), first.segment.finish_reason, first.verdict) == ([7, 8, 5], None, None)
        assert (second.segment.token_ids.tolist(), second.segment.finish_reason) == ([9], "stop")
        assert second.verdict == verdict  # a finished sibling keeps text and verdict

    run(test)


def test_unfinished_answers_survive_the_buffer_token_for_token(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        await buffer.begin_rl(0, steps=1, version=0)
        [lease] = await buffer.lease("w", NEWEST, 1, 0)
        await buffer.report("w", report(lease, tokens(0, 0, [7, 8], version=0)))
        await buffer.report("w", report(lease, tokens(0, 1, [8, 6, 5], version=1)))  # one token is known already
        crash(buffer)
        buffer = make(tmp_path)
        await buffer.begin_rl(0, steps=1, version=0)
        [again] = await buffer.lease("v", NEWEST, 1, 0)
        assert again.key == lease.key
        [piece] = again.pieces
        assert piece.segment.token_ids.tolist() == [7, 8, 6, 5]
        assert piece.segment.versions.tolist() == [0, 0, 1, 1]

    run(test)


def test_a_report_under_an_earlier_lease_is_refused_even_from_the_worker_that_has_the_group_again(tmp_path: Path):
    async def test() -> None:
        clock = Clock()
        buffer = make(tmp_path, clock)
        await buffer.begin_rl(0, steps=1, version=0)
        [old] = await buffer.lease("w", NEWEST, 1, 0)
        clock.now += 31
        [new] = await buffer.lease("w", NEWEST, 1, 0)
        assert new.key == old.key
        assert await buffer.report("w", report(old, tokens(0, 0, [1, 2, 3]))) == [old.key]
        assert not await buffer.finish("w", old.attempt, answer(old))
        refused = [e for e in replay(LocalDisk(tmp_path / "journal")) if isinstance(e, Refused)]
        assert [(e.what, e.attempt, e.state, e.tokens) for e in refused] == [
            ("progress", 0, "leased", 3),
            ("finish", 0, "leased", 4),
        ]
        assert (await buffer.status()).unfinished == 0

    run(test)


def test_missing_tokens_are_an_error_and_not_a_hole(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        await buffer.begin_rl(0, steps=1, version=0)
        [lease] = await buffer.lease("w", NEWEST, 1, 0)
        with pytest.raises(ValueError, match=r"from 2 on of sample 0 .* only 0 are known"):
            await buffer.report("w", report(lease, tokens(0, 2, [5])))

    run(test)


def test_an_answer_too_old_to_be_trained_starts_again_and_its_sibling_does_not(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, wait_for_late=False, max_staleness=1, groups_per_step=1)
        await buffer.begin_rl(0, steps=9, version=0)
        [slow] = await buffer.lease("w", NEWEST, 1, 0)
        await buffer.report("w", report(slow, tokens(0, 0, [7], version=0)))
        for version in (0, 1):
            await step(buffer, version, max_groups=1)
        await buffer.report("w", report(slow, tokens(1, 0, [6, 6], version=1)))
        await buffer.give_back("w", report(slow))
        [again] = await buffer.lease("v", NEWEST, 1, 0)
        assert again.key == slow.key
        assert [(p.sample_index, p.segment.token_ids.tolist()) for p in again.pieces] == [(1, [6, 6])]
        await buffer.report("v", report(again, tokens(0, 0, [3, 3], version=2)))
        crash(buffer)
        buffer = make(tmp_path, wait_for_late=False, max_staleness=1, groups_per_step=1)
        await buffer.begin_rl(0, steps=9, version=2, done_steps=2)
        [third] = await buffer.lease("v", NEWEST, 1, 0)
        assert [(p.sample_index, p.segment.token_ids.tolist()) for p in third.pieces] == [(0, [3, 3]), (1, [6, 6])]

    run(test)


def test_while_steps_are_trained_again_an_answer_that_will_be_too_old_after_them_starts_again(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, wait_for_late=False, max_staleness=1, groups_per_step=1)
        await buffer.begin_rl(0, steps=9, version=0)
        [slow] = await buffer.lease("w", NEWEST, 1, 0)
        await buffer.report("w", report(slow, tokens(0, 0, [7], version=0)))
        for version in (0, 1):
            await step(buffer, version, max_groups=1)
        crash(buffer)
        buffer = make(tmp_path, wait_for_late=False, max_staleness=1, groups_per_step=1)
        await buffer.begin_rl(0, steps=9, version=0)
        info, _ = await buffer.next_batch(1)
        await buffer.trained(info.groups, 1)
        await buffer.new_version(1)  # one more recorded step comes before any new group
        [again] = await buffer.lease("v", NEWEST, 1, 0)
        assert (again.key, again.pieces) == (slow.key, ())

    run(test)


def test_a_deterministic_run_draws_each_answer_in_one_go(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, deterministic=True)
        await buffer.begin_rl(0, steps=1, version=0)
        [lease] = await buffer.lease("w", NEWEST, 1, 0)
        await buffer.report("w", report(lease, tokens(0, 0, [7, 8])))
        await buffer.worker_lost("w")
        [again] = await buffer.lease("v", NEWEST, 1, 0)
        assert again.pieces == ()

    run(test)


def test_nothing_unfinished_is_carried_into_the_next_phase(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=1)
        await buffer.begin_rl(0, steps=1, version=0)
        [lease] = await buffer.lease("w", NEWEST, 1, 0)
        await buffer.report("w", report(lease, tokens(0, 0, [7, 8])))
        await buffer.end_phase()
        await buffer.begin_rl(1, steps=1, version=1)
        [again] = await buffer.lease("w", NEWEST, 1, 0)
        assert (again.key, again.pieces) == (lease.key, ())

    run(test)


# -- over-provisioned rounds ------------------------------------------------------------------------------------


def test_a_round_that_has_its_groups_interrupts_the_rest_and_goes_on_with_them(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=1, oversample=2.0)
        await buffer.begin_rl(0, steps=3, version=0)
        leases = await buffer.lease("w", NEWEST, 9, 0)
        assert len(leases) == 4  # twice what the step needs
        told = asyncio.create_task(buffer.revoked("w", 5))
        for lease in leases[:2]:
            await buffer.finish("w", lease.attempt, answer(lease))
        assert await asyncio.wait_for(told, 1) == [x.key for x in leases[2:]]
        assert await buffer.finish("w", leases[2].attempt, answer(leases[2]))  # it finished in the same moment: kept
        await buffer.give_back("w", report(leases[3], tokens(0, 0, [7, 8])), "interrupted")
        status = await buffer.status()
        assert (status.ready, status.running, status.unfinished) == (3, 0, 1)
        assert await buffer.lease("w", NEWEST, 9, 0) == []  # this round is complete
        info, _ = await buffer.next_batch(1)
        await buffer.trained(info.groups, 1)
        await buffer.new_version(1)
        second = await buffer.lease("w", NEWEST, 9, 0)
        assert (second[0].key, second[0].pieces[0].segment.token_ids.tolist()) == (leases[3].key, [7, 8])
        assert len(second) == 3  # one is ready: 2 × 2 - 1
        assert await buffer.revoked("w", 0) == []

    run(test)


def test_too_many_answers_without_a_verdict_end_the_run(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_failed_frac=0.25)
        await buffer.begin_rl(0, steps=9, version=0)
        for _ in range(8):
            for lease in await buffer.lease("w", NEWEST, 1, 0):
                await buffer.finish("w", lease.attempt, answer(lease, [1.0, None]))
        with pytest.raises(TooManyFailures, match="8 of the last 16 answers have no verdict"):
            await buffer.next_batch(0)

    run(test)


def test_changed_data_is_refused_on_resume(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path, max_staleness=9)
        await buffer.begin_rl(0, steps=9, version=0)
        for lease in await buffer.lease("w", NEWEST, 9, 0):
            await buffer.finish("w", lease.attempt, answer(lease))
        await buffer.close()
        with pytest.raises(ValueError, match="resume with the data"):
            RolloutBuffer(LocalDisk(tmp_path / "journal"), TRAIN[:3], [], RolloutConfig(), 5, 30.0)

    run(test)


def test_a_mixture_goes_on_after_a_restart_where_it_was(tmp_path: Path):
    ids = tuple(prompt.id for prompt in TRAIN)
    mixture = [Share(ids[:3], 3.0), Share(ids[3:], 1.0)]
    config = RolloutConfig(group_size=2, groups_per_step=2, max_staleness=0, max_concurrent=8)

    def mixed(directory: Path) -> RolloutBuffer:
        journal = LocalDisk(directory / "journal")
        return opened(RolloutBuffer(journal, TRAIN, HELD_OUT, config, 5, 30.0, mixture=mixture))

    async def test() -> None:
        whole, halves = mixed(tmp_path / "whole"), mixed(tmp_path / "halves")
        for buffer in (whole, halves):
            await buffer.begin_rl(0, steps=9, version=0)
        expected = [await step(whole, version) for version in range(9)]
        had = [await step(halves, version) for version in range(4)]
        await halves.close()
        halves = mixed(tmp_path / "halves")
        await halves.begin_rl(0, steps=9, version=4, done_steps=4)
        had += [await step(halves, version) for version in range(4, 9)]
        assert had == expected
        drawn = Counter(key.prompt_id in mixture[0].prompt_ids for keys in had for key in keys)
        assert drawn == {True: 14, False: 4}  # 18 groups, three to one
        assert max(key.epoch for keys in had for key in keys) == 4  # the fifth pass over three prompts

    run(test)


def test_two_buffers_never_write_one_journal(tmp_path: Path):
    async def test() -> None:
        buffer = make(tmp_path)
        with pytest.raises(InUse):
            make(tmp_path)
        await buffer.close()
        await buffer.close()
        await make(tmp_path).close()

    run(test)


def test_prompt_ids_are_unique(tmp_path: Path):
    with pytest.raises(ValueError, match=re.escape("each training prompt needs an id of its own, got 'p1' twice")):
        RolloutBuffer(LocalDisk(tmp_path), [TRAIN[0], TRAIN[1], TRAIN[1]], [], RolloutConfig(), 0, 30.0)


def test_an_empty_held_out_set_is_evaluated_at_once(tmp_path: Path):
    async def test() -> None:
        buffer = opened(RolloutBuffer(LocalDisk(tmp_path / "journal"), TRAIN, [], RolloutConfig(), 5, 30.0))
        await buffer.begin_eval(0, 2, 1.0, None)
        assert await buffer.eval_result(0) == []

    run(test)


def test_workers_that_run_at_once_never_break_the_bound(tmp_path: Path):
    """Four workers of uneven speed, staleness 2: every group once, no token older than allowed, all steps done."""

    async def test() -> None:
        buffer = make(tmp_path, max_staleness=2, groups_per_step=3)
        await buffer.begin_rl(0, steps=12, version=0)
        version, ages, trained = 0, [], []

        async def worker(name: str, seed: int) -> None:
            rng = np.random.default_rng(seed)
            while True:
                for lease in await buffer.lease(name, NEWEST, 2, 0.5):
                    sampled_by = version
                    await asyncio.sleep(float(rng.exponential(0.002)))
                    await buffer.finish(
                        name, lease.attempt, answer(lease, [1.0, float(rng.random() < 0.3)], sampled_by)
                    )

        workers = [asyncio.create_task(worker(f"w{i}", i)) for i in range(4)]
        for _ in range(12):
            info, batch = await buffer.next_batch(10)
            ages += list(version - batch.versions[batch.loss_mask])
            trained += info.groups
            await asyncio.sleep(0.002)
            await buffer.trained(info.groups, version + 1)
            await buffer.new_version(version + 1)
            version += 1
        for task in workers:
            task.cancel()
        await buffer.end_phase()
        assert len(set(trained)) == len(trained) == 36
        assert 0 < max(ages) <= 2
        assert min(ages) == 0
        await buffer.close()
        assert (
            Ledger(replay(LocalDisk(tmp_path / "journal"))).entries == buffer._ledger.entries
        )  # the fold is the state

    run(test)


class FullDisk(LocalDisk):
    """Has room for the log, and for no answers."""

    def create(self, name: str):
        if name.startswith("segment"):
            raise OSError(errno.ENOSPC, "no space left on device")
        return super().create(name)


def test_whoever_waits_for_a_batch_hears_at_once_that_the_journal_broke(tmp_path):
    async def body() -> None:
        config = RolloutConfig(group_size=2, groups_per_step=2, max_staleness=0, max_concurrent=8)
        buffer = RolloutBuffer(FullDisk(tmp_path), TRAIN, HELD_OUT, config, 5, 30.0)
        await buffer.begin_rl(0, 2, 0)
        batch = asyncio.create_task(buffer.next_batch(60.0))
        [lease] = await buffer.lease("w0", 0, 1, 0.0)
        with pytest.raises(JournalBroken):
            await buffer.finish("w0", lease.attempt, answer(lease))
        with pytest.raises(JournalBroken, match=r"cannot be written: .*no space left"):
            await asyncio.wait_for(batch, 5)
        with pytest.raises(JournalBroken):
            await buffer.close()

    run(body)


def test_a_lease_of_the_last_writer_is_no_more_also_before_a_phase_begins(tmp_path):
    async def body() -> None:
        buffer = make(tmp_path)
        await buffer.begin_rl(0, 2, 0)
        [lease, other] = await buffer.lease("w0", 0, 2, 0.0)
        await buffer.close()
        buffer = make(tmp_path)
        assert await buffer.report("w0", [GroupProgress(lease.key, lease.attempt)]) == [lease.key]
        assert not await buffer.finish("w0", other.attempt, answer(other))

    run(body)
