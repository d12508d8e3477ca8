"""The audit of a run of the real buffer, with everything that can happen to an answer in it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from actors.buffer import RolloutBuffer
from rollout.audit import audit
from rollout.balance import PhaseId
from rollout.config import RolloutConfig
from rollout.records import GroupProgress, Lease, Piece, Prompt, Rollout, RolloutGroup, Segment
from rollout.storage import LocalDisk
from verifiers.records import Verdict

TRAIN = [Prompt(f"p{i}", f"problem {i}", (1, 2), str(i)) for i in range(13)]
HELD_OUT = [Prompt(f"e{i}", f"held out {i}", (3,), str(i)) for i in range(3)]
ANSWERS = {"rl": 3, "eval": 4}
ETA_1 = RolloutConfig(group_size=3, groups_per_step=2, max_staleness=1, max_concurrent=8, wait_for_late=False)
TORN = b"\xabRL\xba\x00\x00torn"
WHOLE = (50, 9)  # the tokens of every answer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def answer(lease: Lease, rewards: Sequence[float | None] = (1.0, 0.0, 0.0), version: int = 0) -> RolloutGroup:
    """Two tokens per sibling."""
    rollouts = []
    for i, reward in enumerate(rewards):
        segment = Segment.of(WHOLE, (0.0, 0.0), (version, version), "stop")
        verdict = Verdict(reward, "error" if reward is None else "correct" if reward else "wrong", "exact", "1")
        status = "failed" if reward is None else "finished"
        prompt_ids, mask = np.array([1, 2], np.int32), np.ones(2, np.bool_)
        rollouts.append(Rollout(lease.prompt.id, i, prompt_ids, segment, mask, verdict, status))
    return RolloutGroup(lease.key, lease.prompt, tuple(rollouts))


def so_far(lease: Lease, *spans: tuple[int, int, int], version: int = 0) -> list[GroupProgress]:
    """A report: (sample, from token, to token) of the answers."""
    pieces = [
        Piece(i, "answer", start, Segment.of(WHOLE[start:end], [0.0] * (end - start), [version] * (end - start), None))
        for i, start, end in spans
    ]
    return [GroupProgress(lease.key, lease.attempt, tuple(pieces))]


async def train(buffer: RolloutBuffer, version: int) -> None:
    info, _ = await buffer.next_batch(1)
    await buffer.trained(info.groups, version)
    await buffer.new_version(version)


def kill(buffer: RolloutBuffer) -> None:
    """What SIGKILL leaves, and a torn record: the files as they are; the lock goes with the process."""
    journal = buffer._books._journal
    journal._log._log.write(TORN)
    for held in (journal._lock, journal._groups, journal._pieces, journal._log):
        held.close()


async def eventful_life(journal: LocalDisk) -> None:
    """An evaluation; an RL phase with a filtered, a stale and an unscored answer, an expired and returned leases,
    answers that go on elsewhere, a late and a second delivery; a kill in step 3 whose checkpoint is of step 1; an
    interrupted answer that becomes too old; another kill."""
    clock = Clock()
    buffer = RolloutBuffer(journal, TRAIN, HELD_OUT, ETA_1, 5, 30.0, clock)
    await buffer.begin_eval(1000, samples=4, temperature=1.0, limit=2)
    for lease in await buffer.lease("w", 10**6, 9, 0):
        await buffer.finish("w", 0, answer(lease, (1.0, 0.0, 0.0, 0.0)))
    await buffer.end_phase()

    await buffer.begin_rl(0, steps=5, version=0)
    a, b, c, d = await buffer.lease("w", 10**6, 4, 0)
    await buffer.report("w", so_far(d, (0, 0, 1), (1, 0, 2)))
    await buffer.finish("w", 0, answer(a, (1.0, 1.0, 1.0)))  # filtered
    await buffer.finish("w", 0, answer(b))
    await buffer.finish("w", 0, answer(c, (1.0, 0.0, None)))  # the last sibling is left out of training
    await train(buffer, 1)
    clock.now = 31.0  # the lease of d expires
    d_again, e, f = await buffer.lease("w", 10**6, 3, 0)
    assert (d_again.key, [len(piece.segment) for piece in d_again.pieces]) == (d.key, [1, 2])
    assert not await buffer.finish("w", 0, answer(d))  # late: three of its six tokens were persisted
    await buffer.finish("w", 0, answer(e, version=0))  # one version old when it is trained
    await buffer.finish("w", 0, answer(f, version=1))
    await train(buffer, 2)
    assert await buffer.finish("w", 1, answer(d_again, version=0))  # too old for the step after
    assert not await buffer.finish("w", 1, answer(d_again, version=0))  # twice
    with pytest.raises(TimeoutError):
        await buffer.next_batch(0.001)
    g, h, _i, _j = await buffer.lease("w", 10**6, 4, 0)
    await buffer.report("w", so_far(h, (0, 0, 1), (2, 0, 2), version=2))
    await buffer.finish("w", 0, answer(g, version=2))
    await buffer.give_back("w", so_far(h, (0, 1, 2), version=2))
    kill(buffer)

    buffer = RolloutBuffer(journal, TRAIN, HELD_OUT, ETA_1, 5, 30.0, clock)
    await buffer.begin_rl(0, steps=5, version=1, done_steps=1)
    await train(buffer, 2)  # again
    h, i, j = await buffer.lease("v", 10**6, 3, 0)
    await buffer.give_back("v", so_far(i, (1, 0, 1), version=2), "interrupted")
    await buffer.finish("v", 1, answer(h, version=2))
    await train(buffer, 3)
    i, k = await buffer.lease("v", 10**6, 2, 0)
    assert len(i.pieces) == 1
    await buffer.give_back("v", so_far(i))
    await buffer.finish("v", 1, answer(j, version=3))
    await buffer.finish("v", 0, answer(k, version=3))
    await train(buffer, 4)
    i, last = await buffer.lease("v", 10**6, 2, 0)
    assert not i.pieces  # two versions old: discarded
    await buffer.report("v", so_far(i, (0, 0, 2), version=4))
    await buffer.give_back("v", so_far(last))
    kill(buffer)


def test_every_group_answer_token_and_lease_of_an_eventful_run_is_accounted_for(tmp_path: Path):
    asyncio.run(eventful_life(LocalDisk(tmp_path)))
    found = audit(LocalDisk(tmp_path), ANSWERS, max_staleness=1)
    assert found.faults == ()
    assert (found.starts, found.ignored) == (2, 0)
    evaluation, rl = found.phases
    assert (evaluation.phase, rl.phase) == (PhaseId("eval", 1000), PhaseId("rl", 0))
    assert evaluation.groups == {"issued": 2, "evaluated": 2}
    assert evaluation.tokens == {"generated": 16, "known": 16, "evaluated": 16}
    assert rl.steps == 4
    assert rl.groups == {
        "issued": 12,
        "trained": 8,
        "dropped/zero_variance": 1,
        "dropped/stale": 1,
        "running": 1,
        "free/given_back": 1,
    }
    finished = {"trained": 23, "dropped/zero_variance": 3, "dropped/stale": 3, "dropped/unscored": 1}
    beside = {"issued": 36, "generated": 30, "recycled": 6, "discarded/stale": 1}
    assert rl.samples == finished | beside | {"running": 3, "free/given_back": 3}
    in_hand = {"discarded/stale": 1, "partial/running": 2}
    assert rl.tokens == {fate: 2 * count for fate, count in finished.items()} | in_hand | {
        "generated": 60,
        "known": 63,
        "recycled": 12,
        "refused/late": 3,
        "refused/duplicate": 6,
    }
    ends = {"finished": 10, "expired": 1, "given_back": 3, "interrupted": 1, "voided": 2, "running": 1}
    assert rl.leases == {"issued": 18} | ends
    assert rl.refused == {"late": 1, "duplicate": 1}
    assert rl.ages == {0: 40, 1: 6}
    assert rl.untrained() == {
        "dropped/zero_variance": 6,
        "dropped/stale": 6,
        "dropped/unscored": 2,
        "discarded/stale": 1,
        "refused/late": 3,
    }
    assert found.run.closes
    assert found.run.generated_for_training() == 63 + 3
    assert (found.run.groups["issued"], found.run.tokens["known"]) == (14, 16 + 63)


def test_an_audit_needs_no_lock_and_changes_nothing(tmp_path: Path):
    disk = LocalDisk(tmp_path)
    asyncio.run(eventful_life(disk))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    alone = audit(disk, ANSWERS, 1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    holder = disk.lock("lock")
    assert audit(disk, ANSWERS, 1).run == alone.run
    holder.close()
