import pytest

from rollout.events import (
    Discarded,
    Dropped,
    Finished,
    Leased,
    PayloadRef,
    PhaseBegun,
    Progressed,
    Refused,
    Released,
    Trained,
)
from rollout.ledger import IllegalTransition, Ledger
from rollout.records import GroupKey


def key(name: str, epoch: int = 0) -> GroupKey:
    return GroupKey("train", epoch, name)


def finished(name: str, versions: tuple[int, int] = (0, 0), fate="buffered", worker="w", attempt=0) -> Finished:
    return Finished(key(name), worker, attempt, PayloadRef(1, 0), *versions, fate, "" if fate == "buffered" else "why")


def progressed(name: str, attempt: int = 0, batch: int = 0) -> Progressed:
    return Progressed(key(name), "w", attempt, PayloadRef(1, batch), 7)


def begun(version: int, done: int = 0, iteration: int = 0) -> PhaseBegun:
    return PhaseBegun("rl", iteration, version, 50, done)


def history(name: str, *then: object, versions: tuple[int, int] = (0, 0)) -> list:
    return [Leased(key(name), "w", 0), finished(name, versions), *then]


def test_a_group_goes_from_free_to_trained():
    ledger = Ledger([begun(0)])
    states = [ledger.state(key("a"))]
    for event in history("a", Trained((key("a"),), 1)):
        ledger.apply(event)
        states.append(ledger.state(key("a")))
    assert states == ["free", "leased", "buffered", "trained"]


@pytest.mark.parametrize(
    ("before", "event", "message"),
    [
        ([], finished("a"), "needs a group that is leased, .* is free"),
        ([], Released(key("a"), "x"), "is free"),
        (history("a"), finished("a"), "is buffered"),
        (history("a"), Leased(key("a"), "w", 1), "needs a group that is free"),
        (history("a", Trained((key("a"),), 1)), Trained((key("a"),), 1), "is trained"),
        (history("a", Dropped(key("a"), "stale")), Trained((key("a"),), 1), "is dropped"),
        (
            [Leased(key("a"), "w", 0)],
            finished("a", worker="v"),
            "by v under lease 0, but it is leased to w under lease 0",
        ),
        ([Leased(key("a"), "w", 1)], finished("a"), "by w under lease 0, but it is leased to w under lease 1"),
        ([Leased(key("a"), "w", 1)], progressed("a"), "by w under lease 0, but it is leased to w under lease 1"),
        (history("a"), Dropped(key("a"), "failed"), "needs a group that is free, .* is buffered"),
        ([Leased(key("a"), "w", 0), Released(key("a"), "x")], Dropped(key("a"), "stale"), "a group that is buffered"),
        ([Leased(key("a"), "w", 0)], Discarded(key("a"), (0,), 5, "stale"), "needs a group that is free"),
    ],
)
def test_illegal_transitions_are_refused_and_change_nothing(before, event, message):
    ledger = Ledger([begun(0), *before])
    state = ledger.state(key("a"))
    with pytest.raises(IllegalTransition, match=message):
        ledger.apply(event)
    assert ledger.state(key("a")) == state


def test_training_half_known_groups_trains_none():
    ledger = Ledger([begun(0), *history("a")])
    with pytest.raises(IllegalTransition):
        ledger.apply(Trained((key("a"), key("b")), 1))
    assert ledger.state(key("a")) == "buffered"


def test_refused_deliveries_are_counted_by_state_and_change_nothing():
    ledger = Ledger([begun(0), *history("a")])
    for _ in range(2):
        ledger.apply(Refused(key("a"), "w", 0, "finish", "buffered", 12))
    assert ledger.refused == {"buffered": 2}
    assert ledger.state(key("a")) == "buffered"


def test_attempts_are_counted_over_lost_leases():
    ledger = Ledger([begun(0), Leased(key("a"), "w", 0), Released(key("a"), "expired"), Leased(key("a"), "v", 1)])
    assert ledger.attempts(key("a")) == 2
    assert ledger.holds("v", key("a"), 1)
    assert not ledger.holds("w", key("a"), 0)
    assert not ledger.holds("v", key("a"), 0)


def test_lost_workers_are_counted_apart_from_leases_that_ended_otherwise():
    ledger = Ledger([begun(0)])
    for attempt, reason in enumerate(("worker_lost", "expired", "interrupted", "worker_lost")):
        ledger.apply(Leased(key("a"), "w", attempt))
        ledger.apply(Released(key("a"), reason))
    assert (ledger.losses(key("a")), ledger.losses(key("never leased"))) == (2, 0)


def test_a_free_group_that_failed_is_dropped_with_its_pieces():
    ledger = Ledger([begun(0), Leased(key("a"), "w", 0), progressed("a"), Released(key("a"), "worker_lost")])
    ledger.apply(Dropped(key("a"), "failed"))
    assert (ledger.state(key("a")), ledger.entries[key("a")].pieces) == ("dropped", [])


@pytest.mark.parametrize("kind", ["rl", "sample", "sft"])
def test_leases_end_with_their_phase(kind):
    held_out = GroupKey("eval", 2, "e")
    leases = [Leased(key("a"), "w", 0), PhaseBegun("eval", 2, 0), Leased(held_out, "w", 0)]
    ledger = Ledger([begun(0), *leases, PhaseBegun(kind, 1, 0)])
    assert ledger.state(key("a")) == ledger.state(held_out) == "free"


def test_an_evaluation_goes_on_beside_the_phase_and_ends_the_leases_of_the_one_before():
    held_out = GroupKey("eval", 2, "e")
    leases = [Leased(key("a"), "w", 0), PhaseBegun("eval", 2, 0), Leased(held_out, "w", 0), PhaseBegun("eval", 3, 0)]
    ledger = Ledger([begun(0), *leases, Leased(key("b"), "w", 0)])
    assert [ledger.state(at) for at in (key("a"), held_out, key("b"))] == ["leased", "free", "leased"]
    assert [ledger.entries[at].iteration for at in (key("a"), held_out, key("b"))] == [0, 2, 0]


def test_a_resume_loses_nothing_that_is_on_the_record():
    """The checkpoint is of step 1; steps 2 and 3 are on the record and will be trained again."""
    steps = [Trained((key(name),), version) for name, version in (("a", 11), ("b", 12), ("c", 13))]
    events = [
        begun(10),
        *history("a", steps[0], versions=(10, 10)),
        *history("b", steps[1], versions=(10, 11)),
        *history("c", steps[2], versions=(12, 12)),
        *history("ready", versions=(13, 13)),
        Leased(key("running"), "w", 0),
        begun(11, done=1),
    ]
    ledger = Ledger(events)
    states = {k.prompt_id: e.state for k, e in ledger.entries.items()}
    assert states == {"a": "trained", "b": "trained", "c": "trained", "ready": "buffered", "running": "free"}
    assert ledger.steps == {0: steps}


def test_steps_belong_to_the_phase_that_made_them():
    first, second = Trained((key("a"),), 11), Trained((key("b"),), 16)
    ledger = Ledger([begun(10), *history("a", first), begun(15, iteration=1), *history("b", second)])
    assert ledger.steps == {0: [first], 1: [second]}


def test_pieces_are_kept_until_the_group_is_finished():
    ledger = Ledger([begun(0), Leased(key("a"), "w", 0), progressed("a", batch=3), Released(key("a"), "expired")])
    assert ledger.unfinished() == [key("a")]
    ledger.apply(Leased(key("a"), "w", 1))
    ledger.apply(progressed("a", attempt=1, batch=4))
    assert ledger.entries[key("a")].pieces == [PayloadRef(1, 3), PayloadRef(1, 4)]
    ledger.apply(finished("a", attempt=1))
    assert ledger.entries[key("a")].pieces == []
    assert ledger.unfinished() == []


def test_a_sample_that_started_again_is_told_from_its_siblings():
    ledger = Ledger([begun(0), Leased(key("a"), "w", 0), progressed("a"), Released(key("a"), "interrupted")])
    ledger.apply(Discarded(key("a"), (1,), 4, "stale"))
    ledger.apply(Leased(key("a"), "w", 1))
    ledger.apply(progressed("a", attempt=1, batch=1))
    entry = ledger.entries[key("a")]
    assert (len(entry.pieces), entry.restarted) == (2, {1: 1})  # of sample 1 only the second piece counts
