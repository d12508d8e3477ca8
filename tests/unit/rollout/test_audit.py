"""The audit of hand-written journals: what closes, and what is wrong with those that do not."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rollout.audit import Audit, audit
from rollout.balance import Balance, PhaseId
from rollout.events import (
    LOG_NAME,
    Discarded,
    Dropped,
    Event,
    Finished,
    Leased,
    Opened,
    PayloadRef,
    PhaseBegun,
    Progressed,
    Refused,
    Released,
    Trained,
    encode,
)
from rollout.journal import Journal
from rollout.payloads import pieces_to_batch, to_batch
from rollout.records import GroupKey, GroupProgress, Piece, RolloutGroup, Segment
from rollout.segments import PIECES
from rollout.storage import LocalDisk

DATA = "d" * 64


def key(name: str) -> GroupKey:
    return GroupKey("train", 0, name)


def begun(version: int = 0, done: int = 0, iteration: int = 0) -> PhaseBegun:
    return PhaseBegun("rl", iteration, version, 9, done)


def finished(name: str, batch: int = 0, versions: tuple[int, int] = (0, 0), attempt: int = 0) -> Finished:
    return Finished(key(name), "w", attempt, PayloadRef(1, batch), *versions, "buffered")


def buffered(name: str, batch: int = 0, versions: tuple[int, int] = (0, 0)) -> list[Event]:
    return [Leased(key(name), "w", 0), finished(name, batch, versions)]


def piece(sample: int, offset: int, tokens: Sequence[int], call: str = "answer", version: int = 0) -> Piece:
    return Piece(sample, call, offset, Segment.of(tokens, [0.0] * len(tokens), [version] * len(tokens), None))


def said(name: str, *pieces: Piece, attempt: int = 0) -> GroupProgress:
    return GroupProgress(key(name), attempt, pieces)


def reported(name: str, tokens: int, batch: int = 0, attempt: int = 0) -> Progressed:
    return Progressed(key(name), "w", attempt, PayloadRef(1, batch), tokens)


def audited(
    directory: Path,
    groups: Sequence[RolloutGroup],
    events: Sequence[Event],
    eta: float = 2,
    reports: Sequence[GroupProgress] = (),
) -> Audit:
    """The audit of a hand-written journal: these payloads, then these events. Event 1 says that it was opened."""

    async def write() -> None:
        journal = Journal(LocalDisk(directory), DATA)
        for group in groups:
            journal.add(to_batch(group, 0, 0))
        for report in reports:
            journal.add_pieces(pieces_to_batch(report))
        for event in events:
            journal.post(event)
        await journal.close()

    asyncio.run(write())
    return audit(LocalDisk(directory), {"rl": 2, "eval": 2}, eta)


# -- groups and steps -------------------------------------------------------------------------------------------


def test_a_group_trained_twice_is_found(tmp_path: Path, make_group):
    events = [begun(), *buffered("a"), Trained((key("a"),), 1), Trained((key("a"),), 2)]
    faults = audited(tmp_path, [make_group("a")], events).faults
    assert "train/0/a was trained 2 times, at versions [1, 2]" in faults
    assert "rl 0: groups issued 1, accounted for 2" in faults
    assert "rl 0: tokens generated 4, accounted for 8" in faults
    assert "rl 0: the ledger has 1 steps, the records 2" in faults
    assert any(fault.startswith("event 6: Trained needs a group that is buffered") for fault in faults)


def test_a_group_twice_in_one_step_is_found(tmp_path: Path, make_group):
    events = [begun(), *buffered("a"), Trained((key("a"), key("a")), 1)]
    assert "train/0/a was trained 2 times, at versions [1, 1]" in audited(tmp_path, [make_group("a")], events).faults


def test_steps_that_a_restart_trains_again_are_recorded_and_counted_once(tmp_path: Path, make_group):
    steps = [*buffered("a"), Trained((key("a"),), 1), *buffered("b", 1), Trained((key("b"),), 2)]
    events = [begun(), *steps, begun(0, 0), begun(1, 1), begun(2, 2)]
    found = audited(tmp_path, [make_group("a"), make_group("b")], events)
    assert (found.faults, found.run.steps, found.run.groups["trained"]) == ((), 2, 2)


def test_steps_that_a_restart_builds_on_without_a_record_are_found(tmp_path: Path, make_group):
    events = [begun(), *buffered("a"), Trained((key("a"),), 1), begun(3, 3)]
    [fault] = audited(tmp_path, [make_group("a")], events).faults
    assert fault == "event 6: rl 0 goes on after step 3, but 2 of these steps have no record"


def test_a_restart_on_weights_that_its_steps_did_not_make_is_found(tmp_path: Path, make_group):
    events = [begun(), *buffered("a"), Trained((key("a"),), 1), begun(2, 1)]
    [fault] = audited(tmp_path, [make_group("a")], events).faults
    assert fault == "event 6: rl 0 goes on after step 1 with version 2, but by the records it then had version 1"


@pytest.mark.parametrize("made", [1, 2, 4])
def test_a_step_that_does_not_make_the_next_version_is_found(tmp_path: Path, make_group, made):
    events = [begun(1), *buffered("a"), Trained((key("a"),), 2), *buffered("b", 1), Trained((key("b"),), made)]
    faults = audited(tmp_path, [make_group("a"), make_group("b")], events).faults
    assert f"event 8: rl 0 made version {made} in the step from version 2" in faults


def test_training_outside_an_rl_phase_is_found(tmp_path: Path, make_group):
    events = [begun(), *buffered("a"), PhaseBegun("sft", 0, 0), Trained((key("a"),), 1)]
    assert "event 6: version 1 was trained outside an RL phase" in audited(tmp_path, [make_group("a")], events).faults


def test_what_a_writer_appends_after_it_lost_the_journal_counts_for_nothing(tmp_path: Path, make_group):
    audited(tmp_path, [make_group("a")], [begun(), *buffered("a")])
    with (tmp_path / LOG_NAME).open("ab") as log:
        end = log.tell()
        log.write(encode(Opened(2, DATA, "another"), 2, end))
        log.write(encode(Trained((key("a"),), 1), 1, end))
    found = audit(LocalDisk(tmp_path), {"rl": 2}, 2)
    assert (found.faults, found.starts, found.ignored, found.events) == ((), 2, 1, 5)
    assert found.run.groups == {"issued": 1, "waiting": 1}


def test_answers_that_the_log_refers_to_and_the_disk_does_not_have_are_found(tmp_path: Path, make_group):
    faults = audited(tmp_path, [make_group("a")], [begun(), *buffered("a"), *buffered("b", 1)]).faults
    assert faults[0].startswith("the answers of train/0/b are not in the journal")
    assert "rl 0: answers issued 4, accounted for 2" in faults


def test_a_group_that_came_in_short_does_not_close(tmp_path: Path, make_group):
    faults = audited(tmp_path, [make_group("a", (1.0,))], [begun(), *buffered("a")]).faults
    assert "rl 0: answers issued 2, accounted for 1" in faults


def test_events_that_cannot_be_are_found_and_the_audit_goes_on(tmp_path: Path, make_group):
    events = [begun(), Released(key("x"), "expired"), *buffered("a"), Dropped(key("a"), "stale")]
    found = audited(tmp_path, [make_group("a")], events)
    assert len(found.faults) == 1
    assert found.faults[0].startswith("event 3: Released needs a group that is leased")
    assert found.run.groups == {"issued": 1, "dropped/stale": 1}


def test_answers_whose_delivery_was_never_recorded_are_counted_apart(tmp_path: Path, make_group):
    found = audited(tmp_path, [make_group("a"), make_group("b")], [begun(), *buffered("a"), Leased(key("b"), "w", 0)])
    assert found.faults == ()
    assert found.run.samples == {"issued": 4, "generated": 4, "waiting": 2, "unrecorded": 2, "running": 2}
    assert found.run.tokens == {"generated": 8, "known": 4, "waiting": 4, "unrecorded": 4}


def test_a_group_belongs_to_the_phase_that_leased_it_last_and_takes_its_tokens_along(tmp_path: Path):
    first_lease = [Leased(key("a"), "w", 0), reported("a", 3), Released(key("a"), "phase_over")]
    events = [begun(), *first_lease, begun(5, iteration=1), Leased(key("a"), "w", 1)]
    found = audited(tmp_path, [], events, reports=[said("a", piece(0, 0, (1, 2, 3)))])
    first, second = found.phases
    assert found.faults == ()
    assert (first.groups, first.leases) == ({}, {"issued": 1, "phase_over": 1})
    assert (second.groups, second.leases) == ({"issued": 1, "running": 1}, {"issued": 1, "running": 1})
    assert (+first.tokens, second.tokens) == ({}, {"known": 3, "partial/running": 3})


# -- versions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("eta", "faults"), [(3, 0), (2, 1), (2.9, 1)])
def test_a_trained_token_older_than_the_bound_is_found(tmp_path: Path, make_group, eta, faults):
    events = [begun(), begun(3), *buffered("a", versions=(0, 3)), Trained((key("a"),), 4)]
    found = audited(tmp_path, [make_group("a", versions=(3, 3, 0))], events, eta)
    assert found.run.ages == {3: 2, 0: 4}
    assert len(found.faults) == faults
    assert not faults or found.faults == (
        f"train/0/a: the step that made version 4 trained tokens 3 versions old, the bound is {eta:g}",
    )


def test_masked_tokens_and_unscored_siblings_have_no_age(tmp_path: Path, make_group):
    group = make_group("a", (1.0, None), versions=(0, 9))
    for rollout in group.rollouts:
        rollout.loss_mask[1] = False
    found = audited(tmp_path, [group], [begun(), *buffered("a", versions=(0, 9)), Trained((key("a"),), 1)])
    assert (found.faults, found.run.ages) == ((), {0: 1})


def test_a_token_of_weights_that_did_not_exist_yet_is_found(tmp_path: Path, make_group):
    events = [begun(2), *buffered("a", versions=(5, 5)), Trained((key("a"),), 3)]
    assert audited(tmp_path, [make_group("a", versions=(5,))], events).faults == (
        "event 4: train/0/a came in with tokens of version 5, which no *trained* record and no phase had named before",
        "train/0/a: the step that made version 3 trained tokens of version 5, which did not exist yet",
    )


def test_a_version_that_engines_had_before_its_record_was_durable_is_found(tmp_path: Path, make_group):
    late = [begun(), *buffered("a"), *buffered("b", 1, (1, 1)), Trained((key("a"),), 1), Trained((key("b"),), 2)]
    groups = [make_group("a"), make_group("b", versions=(1, 1))]
    [fault] = audited(tmp_path / "late", groups, late).faults
    assert fault.startswith("event 6: train/0/b came in with tokens of version 1, which no *trained* record")
    in_time = [begun(), *buffered("a"), Trained((key("a"),), 1), *buffered("b", 1, (1, 1)), Trained((key("b"),), 2)]
    assert audited(tmp_path / "in time", groups, in_time).faults == ()


# -- unfinished answers -----------------------------------------------------------------------------------------


def test_an_interrupted_answer_that_goes_on_elsewhere_is_counted_once_and_is_recycled(tmp_path: Path, make_group):
    interrupted = [Leased(key("a"), "w", 0), reported("a", 3), Released(key("a"), "interrupted")]
    again = [Leased(key("a"), "w", 1), reported("a", 1, 1, attempt=1), finished("a", attempt=1)]
    events = [begun(), *interrupted, *again, *buffered("b", 1)]
    groups = [make_group("a", versions=[0] * 5), make_group("b")]
    reports = [said("a", piece(0, 0, (100, 100)), piece(1, 0, (101,))), said("a", piece(1, 1, (101,)), attempt=1)]
    found = audited(tmp_path, groups, events, reports=reports)
    assert found.faults == ()
    assert found.run.tokens == {"known": 14, "generated": 14, "waiting": 14, "recycled": 10}
    assert found.run.samples == {"issued": 4, "generated": 4, "waiting": 4, "recycled": 2}
    assert (found.run.quantiles("recycled"), found.run.quantiles("waiting")) == ([5] * 4, [2, 2, 5, 5])


def test_an_answer_that_started_again_from_nothing_is_not_recycled(tmp_path: Path, make_group):
    first = [Leased(key("a"), "w", 0), reported("a", 1), Released(key("a"), "expired")]
    second = [Leased(key("a"), "w", 1), Released(key("a"), "expired"), Discarded(key("a"), (0,), 1, "stale", (1,))]
    third = [Leased(key("a"), "w", 2), finished("a", attempt=2)]
    found = audited(
        tmp_path, [make_group("a")], [begun(), *first, *second, *third], reports=[said("a", piece(0, 0, (7,)))]
    )
    assert found.faults == ()
    assert found.run.tokens == {"known": 5, "discarded/stale": 1, "generated": 4, "waiting": 4}


def test_discarded_tokens_are_lost_by_reason_and_the_rest_of_the_group_is_still_held(tmp_path: Path):
    events = [
        begun(),
        *[Leased(key("a"), "w", 0), reported("a", 6), Released(key("a"), "expired")],
        Discarded(key("a"), (0, 2), 4, "stale", (3, 1)),
    ]
    reports = [said("a", piece(0, 0, (1, 2, 3)), piece(1, 0, (4, 5)), piece(2, 0, (6,)))]
    found = audited(tmp_path, [], events, reports=reports)
    assert found.faults == ()
    assert found.run.tokens == {"known": 6, "discarded/stale": 4, "partial/free/expired": 2}
    assert found.run.lengths["discarded/stale"] == {3: 1, 1: 1}
    assert found.run.untrained() == {"discarded/stale": 4}


def test_tokens_that_were_turned_away_are_beside_the_balance(tmp_path: Path, make_group):
    lease, late = [Leased(key("a"), "w", 0), reported("a", 3)], Refused(key("a"), "w", 0, "finish", "leased", 10)
    again = [Leased(key("a"), "v", 1), Refused(key("a"), "w", 0, "progress", "leased", 4), late]
    done = Finished(key("a"), "v", 1, PayloadRef(1, 0), 0, 0, "buffered")
    twice = Refused(key("a"), "v", 1, "finish", "buffered", 6)
    events = [begun(), *lease, Released(key("a"), "worker_lost"), *again, done, twice]
    reports = [said("a", piece(0, 0, (100, 100, 100)))]
    found = audited(tmp_path, [make_group("a", versions=[0] * 3)], events, reports=reports)
    assert found.faults == ()
    assert found.run.refused == {"late": 2, "duplicate": 1}
    assert (found.run.tokens["refused/late"], found.run.tokens["refused/duplicate"]) == (4 + 7, 6)
    assert found.run.tokens["known"] == 6
    assert found.run.untrained() == {"refused/late": 11}


def test_an_answer_that_does_not_continue_what_was_persisted_is_found(tmp_path: Path, make_group):
    events = [begun(), Leased(key("a"), "w", 0), reported("a", 3), finished("a")]
    group = make_group("a", versions=[0] * 3, tokens=[(1, 2, 3), (4, 5, 6)])

    def faults(name: str, *pieces: Piece) -> tuple[str, ...]:
        return audited(tmp_path / name, [group], events, reports=[said("a", *pieces)]).faults

    other = "event 5: answer 1 of train/0/a does not continue what was persisted of it"
    assert faults("as it was", piece(0, 0, (1,)), piece(1, 0, (4, 5))) == ()
    assert faults("another token", piece(0, 0, (1,)), piece(1, 0, (4, 6))) == (other,)
    assert faults("another version", piece(0, 0, (1,)), piece(1, 0, (4, 5), version=7)) == (other,)
    assert faults("not from the start", piece(0, 0, (1,)), piece(1, 0, (5, 6))) == (other,)
    assert faults("two calls", piece(0, 0, (1,)), piece(1, 0, (4,), "ask"), piece(1, 0, (6,), "answer")) == ()
    assert faults("calls overlap", piece(1, 0, (4, 5), "ask"), piece(1, 0, (5,), "tell")) == (other,)
    assert faults("calls swapped", piece(0, 0, (1,)), piece(1, 0, (6,), "ask"), piece(1, 0, (4,), "answer")) == (other,)


def test_answers_shorter_than_what_was_persisted_are_found_without_the_pieces(tmp_path: Path, make_group):
    events = [begun(), Leased(key("a"), "w", 0), reported("a", 9), finished("a")]
    [fault] = audited(tmp_path, [make_group("a")], events).faults
    assert fault == "train/0/a came in with 4 tokens, but 9 were persisted of it"


def test_reports_whose_pieces_say_something_else_are_found(tmp_path: Path):
    events = [begun(), Leased(key("a"), "w", 0), reported("a", 3), reported("a", 2, 1)]
    reports = [said("a", piece(0, 0, (1, 2))), said("a", piece(0, 3, (4, 5)))]
    found = audited(tmp_path, [], events, reports=reports)
    assert found.faults[:2] == (
        "event 4: a report on train/0/a has 3 tokens, its pieces have 2",
        "event 5: pieces of answer 0 of train/0/a follow one another, got tokens from 3 on after 2",
    )
    assert "rl 0: tokens known 5, accounted for 4" in found.faults


def test_a_discard_of_another_number_of_tokens_is_found(tmp_path: Path):
    lease = [Leased(key("a"), "w", 0), reported("a", 2), Released(key("a"), "expired")]
    events = [begun(), *lease, Discarded(key("a"), (0,), 1, "stale", (1,))]
    faults = audited(tmp_path, [], events, reports=[said("a", piece(0, 0, (1, 2)))]).faults
    assert faults[0] == "event 6: 1 tokens of train/0/a were discarded, 2 were persisted"
    assert "rl 0: tokens known 2, accounted for 1" in faults


def test_pieces_may_be_gone_once_their_group_is_finished_and_not_before(tmp_path: Path, make_group):
    events = [begun(), Leased(key("a"), "w", 0), reported("a", 1)]
    reports = [said("a", piece(0, 0, (100,)))]
    audited(tmp_path / "running", [], events, reports=reports)
    audited(tmp_path / "finished", [make_group("a")], [*events, finished("a")], reports=reports)
    found = []
    for name in ("running", "finished"):
        (tmp_path / name / PIECES.arrow(1)).unlink()
        found.append(audit(LocalDisk(tmp_path / name), {"rl": 2}, 2).faults)
    assert found[0][0] == "the pieces of train/0/a, which is unfinished, are not in the journal"
    assert found[1] == ()


def test_pieces_of_a_group_that_was_given_up_may_be_gone(tmp_path: Path):
    lease = [Leased(key("a"), "w", 0), reported("a", 1), Released(key("a"), "worker_lost")]
    events = [begun(), *lease, Discarded(key("a"), (0,), 1, "failed", (1,)), Dropped(key("a"), "failed")]
    audited(tmp_path, [], events, reports=[said("a", piece(0, 0, (100,)))])
    (tmp_path / PIECES.arrow(1)).unlink()
    found = audit(LocalDisk(tmp_path), {"rl": 2}, 2)
    assert found.run.samples["dropped/undelivered"] == 2
    assert [fault for fault in found.faults if "not in the journal" in fault] == []


def test_pieces_of_another_group_under_the_number_of_those_that_are_gone_are_no_fault(tmp_path: Path, make_group):
    """Compaction removed what was reported of a; a restart then gave its segment's number away."""
    events = [begun(), Leased(key("a"), "w", 0), reported("a", 1), reported("a", 1, 1), finished("a")]
    events += [Leased(key("b"), "w", 0), reported("b", 2)]
    found = audited(tmp_path, [make_group("a")], events, reports=[said("b", piece(0, 0, (8, 9)))])
    assert found.faults == ()
    assert found.run.tokens["partial/running"] == 2


def test_quantiles_are_lengths_that_occur_over_all_accounts_asked_for():
    balance = Balance(PhaseId("rl", 0))
    balance.book("trained", np.arange(1, 51))
    balance.book("waiting", np.arange(51, 101))
    assert balance.quantiles("trained", "waiting") == [10, 50, 90, 100]
    balance.book("dropped/stale", np.array([7, 7, 7]))
    assert balance.quantiles("dropped/stale") == [7, 7, 7, 7]
    assert balance.quantiles("dropped/failed") == []
