import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from actors.buffer import RolloutBuffer
from rollout.audit import Audit, audit
from rollout.balance import Balance, PhaseId
from rollout.config import RolloutConfig
from rollout.events import LOG_NAME, Dropped, Event, Finished, Leased, PayloadRef, PhaseBegun, Released, Trained
from rollout.journal import Journal
from rollout.payloads import to_batch
from rollout.records import GroupKey, Lease, Prompt, Rollout, RolloutGroup, Segment
from verifiers.records import Verdict

TRAIN = [Prompt(f"p{i}", f"problem {i}", (1, 2), str(i)) for i in range(10)]
HELD_OUT = [Prompt(f"e{i}", f"held out {i}", (3,), str(i)) for i in range(3)]
ANSWERS = {"rl": 3, "eval": 4}
ETA_1 = RolloutConfig(group_size=3, groups_per_step=2, max_staleness=1, max_concurrent=8)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def answer(lease: Lease, rewards: Sequence[float | None] = (1.0, 0.0, 0.0), version: int = 0) -> RolloutGroup:
    """Two tokens per sibling."""
    rollouts = []
    for i, reward in enumerate(rewards):
        segment = Segment(np.array([50, 9], np.int32), np.zeros(2, np.float32), np.full(2, version, np.int32), "stop")
        verdict = Verdict(reward, "error" if reward is None else "correct" if reward else "wrong", "exact", "1")
        status = "failed" if reward is None else "finished"
        prompt_ids, mask = np.array([1, 2], np.int32), np.ones(2, np.bool_)
        rollouts.append(Rollout(lease.prompt.id, i, prompt_ids, segment, mask, verdict, status))
    return RolloutGroup(lease.key, lease.prompt, tuple(rollouts))


async def train(buffer: RolloutBuffer, version: int) -> None:
    info, _ = await buffer.next_batch(1)
    await buffer.trained(info.groups, version)
    await buffer.new_version(version)


def kill(buffer: RolloutBuffer) -> None:
    """What SIGKILL leaves, and a torn record: the files as they are; the lock goes with the process."""
    journal = buffer._journal
    journal._lock.close()
    journal._log.write(b"\xff\x00\x00\x00torn")
    journal._log.close()
    assert journal._segment is not None
    journal._segment._file.close()


async def eventful_life(journal: Path) -> None:
    """An evaluation; an RL phase with a filtered, a stale and an unscored answer, an expired and a returned lease;
    a kill in step 3 whose checkpoint is of step 1; one step more."""
    clock = Clock()
    buffer = RolloutBuffer(journal, TRAIN, HELD_OUT, ETA_1, 5, 30.0, clock)
    await buffer.begin_eval(1000, samples=4, temperature=1.0, limit=2)
    for lease in await buffer.lease("w", 9, 0):
        await buffer.finish("w", answer(lease, (1.0, 0.0, 0.0, 0.0)))
    await buffer.end_phase()

    await buffer.begin_rl(0, steps=5, version=0)
    a, b, c, d = await buffer.lease("w", 4, 0)
    await buffer.finish("w", answer(a, (1.0, 1.0, 1.0)))  # filtered
    await buffer.finish("w", answer(b))
    await buffer.finish("w", answer(c, (1.0, 0.0, None)))  # the last sibling is left out of training
    await train(buffer, 1)
    clock.now = 31.0  # the lease of d expires
    d_again, e, f = await buffer.lease("w", 3, 0)
    assert d_again.key == d.key
    await buffer.finish("w", answer(e, version=0))  # one version old when it is trained
    await buffer.finish("w", answer(f, version=1))
    await train(buffer, 2)
    await buffer.finish("w", answer(d_again, version=0))  # too old for the step after
    with pytest.raises(TimeoutError):
        await buffer.next_batch(0.001)
    g, h, _i, _j = await buffer.lease("w", 4, 0)
    await buffer.finish("w", answer(g, version=2))
    await buffer.give_back("w", [h.key])
    await buffer._journal.sync()
    kill(buffer)

    buffer = RolloutBuffer(journal, TRAIN, HELD_OUT, ETA_1, 5, 30.0, clock)
    await buffer.begin_rl(0, steps=5, version=1, done_steps=1)
    await train(buffer, 2)
    g, h, i = await buffer.lease("v", 3, 0)
    await buffer.finish("v", answer(g, version=2))
    await buffer.give_back("v", [i.key])
    await buffer._journal.sync()
    kill(buffer)


def test_every_group_answer_token_and_lease_of_an_eventful_run_is_accounted_for(tmp_path: Path):
    asyncio.run(eventful_life(tmp_path))
    found = audit(tmp_path, ANSWERS, max_staleness=1)
    assert found.faults == ()
    evaluation, rl = found.phases
    assert (evaluation.phase, rl.phase) == (PhaseId("eval", 1000), PhaseId("rl", 0))
    assert evaluation.groups == {"issued": 2, "evaluated": 2}
    assert evaluation.tokens == {"generated": 16, "evaluated": 16}
    assert rl.steps == 2
    assert rl.groups == {
        "issued": 10,
        "trained": 4,
        "waiting": 1,
        "dropped/zero_variance": 1,
        "dropped/stale": 1,
        "running": 1,
        "free/given_back": 1,
        "free/voided": 1,
    }
    answers = {
        "generated": 24,
        "trained": 11,
        "waiting": 3,
        "dropped/zero_variance": 3,
        "dropped/stale": 3,
        "dropped/unscored": 1,
        "lost_lineage": 3,
    }
    assert rl.samples == answers | {"issued": 30, "running": 3, "free/given_back": 3, "free/voided": 3}
    assert rl.tokens == {fate: 2 * count for fate, count in answers.items()}
    assert rl.leases == {"issued": 14, "finished": 8, "expired": 1, "given_back": 2, "voided": 2, "running": 1}
    assert rl.ages == {0: 16, 1: 6}
    assert found.run.closes
    assert (found.run.groups["issued"], found.run.tokens["generated"]) == (12, 16 + 48)


def test_an_audit_needs_no_lock_and_changes_nothing(tmp_path: Path):
    asyncio.run(eventful_life(tmp_path))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    async def audited_while_written() -> Audit:
        writer = Journal(tmp_path)
        try:
            return audit(tmp_path, ANSWERS, 1)
        finally:
            await writer.close()

    assert audit(tmp_path, ANSWERS, 1).run == asyncio.run(audited_while_written()).run
    before[LOG_NAME] = before[LOG_NAME].removesuffix(b"\xff\x00\x00\x00torn")  # the writer cuts it, the audit does not
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} | {"lock": b""} == before | {"lock": b""}


# -- faults -----------------------------------------------------------------------------------------------------


def key(name: str) -> GroupKey:
    return GroupKey("train", 0, name)


def audited(directory: Path, groups: Sequence[RolloutGroup], events: Sequence[Event], eta: float = 2) -> Audit:
    """The audit of a hand-written journal: these payloads, then these events."""

    async def write() -> None:
        journal = Journal(directory)
        for group in groups:
            journal.add(to_batch(group, 0, 0))
        for event in events:
            journal.post(event)
        await journal.close()

    asyncio.run(write())
    return audit(directory, {"rl": 2, "eval": 2}, eta)


def buffered(name: str, batch: int = 0, versions: tuple[int, int] = (0, 0)) -> list[Event]:
    return [Leased(key(name), "w", 0), Finished(key(name), "w", PayloadRef(1, batch), *versions, "buffered")]


def test_a_group_trained_twice_is_found(tmp_path: Path, make_group):
    events = [PhaseBegun("rl", 0, 0, 9), *buffered("a"), Trained((key("a"),), 1), Trained((key("a"),), 2)]
    faults = audited(tmp_path, [make_group("a")], events).faults
    assert "train/0/a was trained 2 times, at versions [1, 2]" in faults
    assert "rl 0: groups issued 1, accounted for 2" in faults
    assert "rl 0: tokens generated 4, accounted for 8" in faults
    assert any(fault.startswith("event 5: Trained needs a group that is buffered") for fault in faults)


def test_a_group_twice_in_one_step_is_found(tmp_path: Path, make_group):
    events = [PhaseBegun("rl", 0, 0, 9), *buffered("a"), Trained((key("a"), key("a")), 1)]
    assert "train/0/a was trained 2 times, at versions [1, 1]" in audited(tmp_path, [make_group("a")], events).faults


def test_training_that_a_restart_took_back_is_not_doubled(tmp_path: Path, make_group):
    step = Trained((key("a"),), 1)
    events = [PhaseBegun("rl", 0, 0, 9), *buffered("a"), step, PhaseBegun("rl", 0, 0, 9), step]
    found = audited(tmp_path, [make_group("a")], events)
    assert (found.faults, found.run.steps, found.run.groups["trained"]) == ((), 1, 1)


@pytest.mark.parametrize(("eta", "faults"), [(3, 0), (2, 1), (2.9, 1)])
def test_a_trained_token_older_than_the_bound_is_found(tmp_path: Path, make_group, eta, faults):
    events = [PhaseBegun("rl", 0, 0, 9), *buffered("a", versions=(0, 3)), Trained((key("a"),), 4)]
    found = audited(tmp_path, [make_group("a", versions=(3, 3, 0))], events, eta)
    assert found.run.ages == {3: 2, 0: 4}
    assert len(found.faults) == faults
    assert not faults or found.faults == (
        f"train/0/a: the step that made version 4 trained tokens 3 versions old, the bound is {eta:g}",
    )


def test_masked_tokens_and_unscored_siblings_have_no_age(tmp_path: Path, make_group):
    group = make_group("a", (1.0, None), versions=(0, 9))
    group.rollouts[0].loss_mask[1] = False
    found = audited(
        tmp_path, [group], [PhaseBegun("rl", 0, 0, 9), *buffered("a", versions=(0, 9)), Trained((key("a"),), 1)]
    )
    assert (found.faults, found.run.ages) == ((), {0: 1})


def test_a_token_of_weights_that_did_not_exist_yet_is_found(tmp_path: Path, make_group):
    events = [PhaseBegun("rl", 0, 0, 9), *buffered("a", versions=(5, 5)), Trained((key("a"),), 3)]
    [fault] = audited(tmp_path, [make_group("a", versions=(5,))], events).faults
    assert fault == "train/0/a: the step that made version 3 trained tokens of version 5, which did not exist yet"


def test_steps_that_a_restart_builds_on_without_a_record_are_found(tmp_path: Path, make_group):
    events = [PhaseBegun("rl", 0, 0, 9), *buffered("a"), Trained((key("a"),), 1), PhaseBegun("rl", 0, 3, 9, 3)]
    [fault] = audited(tmp_path, [make_group("a")], events).faults
    assert fault == "event 5: rl 0 goes on after step 3, but 2 of these steps have no trained record"


def test_answers_that_the_log_refers_to_and_the_disk_does_not_have_are_found(tmp_path: Path, make_group):
    faults = audited(tmp_path, [make_group("a")], [PhaseBegun("rl", 0, 0, 9), *buffered("a"), *buffered("b", 1)]).faults
    assert faults[0].startswith("the answers of train/0/b are not in the journal")
    assert "rl 0: answers issued 4, accounted for 2" in faults


def test_a_group_that_came_in_short_does_not_close(tmp_path: Path, make_group):
    faults = audited(tmp_path, [make_group("a", (1.0,))], [PhaseBegun("rl", 0, 0, 9), *buffered("a")]).faults
    assert "rl 0: answers issued 2, accounted for 1" in faults


def test_events_that_cannot_be_are_found_and_the_audit_goes_on(tmp_path: Path, make_group):
    events = [PhaseBegun("rl", 0, 0, 9), Released(key("x"), "expired"), *buffered("a"), Dropped(key("a"), "stale")]
    found = audited(tmp_path, [make_group("a")], events)
    assert len(found.faults) == 1
    assert found.faults[0].startswith("event 2: Released needs a group that is leased")
    assert found.run.groups == {"issued": 1, "dropped/stale": 1}


def test_answers_whose_delivery_was_never_recorded_are_counted_apart(tmp_path: Path, make_group):
    events = [PhaseBegun("rl", 0, 0, 9), *buffered("a"), Leased(key("b"), "w", 0)]
    found = audited(tmp_path, [make_group("a"), make_group("b")], events)
    assert found.faults == ()
    assert found.run.samples == {"issued": 4, "generated": 4, "waiting": 2, "unrecorded": 2, "running": 2}


def test_a_group_belongs_to_the_phase_that_leased_it_last(tmp_path: Path):
    events = [
        PhaseBegun("rl", 0, 0, 9),
        Leased(key("a"), "w", 0),
        Released(key("a"), "phase_over"),
        PhaseBegun("rl", 1, 5, 9),
        Leased(key("a"), "w", 1),
    ]
    first, second = audited(tmp_path, [], events).phases
    assert (first.groups, first.leases) == ({}, {"issued": 1, "phase_over": 1})
    assert (second.groups, second.leases) == ({"issued": 1, "running": 1}, {"issued": 1, "running": 1})


def test_quantiles_are_lengths_that_occur(tmp_path: Path):
    balance = Balance(PhaseId("rl", 0))
    balance.lengths["trained"] = dict.fromkeys(range(1, 101), 1)
    assert balance.quantiles("trained") == [10, 50, 90, 100]
    balance.lengths["trained"] = {7: 3}
    assert balance.quantiles("trained") == [7, 7, 7, 7]
