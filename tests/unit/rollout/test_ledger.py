import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.events import Dropped, Finished, Leased, PayloadRef, PhaseBegun, Released, Trained
from rollout.ledger import IllegalTransition, Ledger, PromptOrder
from rollout.records import GroupKey


def key(name: str, epoch: int = 0) -> GroupKey:
    return GroupKey("train", epoch, name)


def finished(name: str, versions: tuple[int, int] = (0, 0), fate="buffered", worker="w", batch=0) -> Finished:
    return Finished(key(name), worker, PayloadRef(1, batch), *versions, fate, "" if fate == "buffered" else "why")


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
        ([Leased(key("a"), "w", 0)], finished("a", worker="v"), "leased to w, v cannot finish it"),
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


def test_refused_deliveries_are_counted_by_state():
    ledger = Ledger([begun(0), *history("a")])
    ledger.refuse(key("a"))
    ledger.refuse(key("a"))
    ledger.refuse(key("never leased"))
    assert ledger.refused == {"buffered": 2, "free": 1}


def test_attempts_are_counted_over_lost_leases():
    ledger = Ledger([begun(0), Leased(key("a"), "w", 0), Released(key("a"), "expired"), Leased(key("a"), "v", 1)])
    assert ledger.attempts(key("a")) == 2
    assert ledger.holds("v", key("a"))
    assert not ledger.holds("w", key("a"))


def test_leases_end_with_their_phase():
    ledger = Ledger([begun(0), Leased(key("a"), "w", 0), PhaseBegun("eval", 3, 0)])
    assert ledger.state(key("a")) == "free"


def test_a_resume_forgets_what_lost_weights_sampled_and_reopens_what_they_trained():
    """Phase begun at version 10; the checkpoint is of step 2 (version 12); steps 3 and 4 are lost."""
    events = [
        begun(10),
        *history("trained before", Trained((key("trained before"),), 12), versions=(10, 10)),
        *history("trained after", Trained((key("trained after"),), 13), versions=(11, 12)),
        *history("ready", versions=(12, 12)),
        *history("lost", versions=(12, 13)),
        *history("lost and trained", Trained((key("lost and trained"),), 14), versions=(13, 13)),
        Leased(key("dropped"), "w", 0),
        finished("dropped", (11, 11), fate="dropped"),
        Leased(key("dropped by lost weights"), "w", 0),
        finished("dropped by lost weights", (14, 14), fate="dropped"),
        Leased(key("running"), "w", 0),
        begun(12, done=2),
    ]
    ledger = Ledger(events)
    assert {k.prompt_id: e.state for k, e in ledger.entries.items()} == {
        "trained before": "trained",
        "trained after": "buffered",
        "ready": "buffered",
        "lost": "free",
        "lost and trained": "free",
        "dropped": "dropped",
        "dropped by lost weights": "free",
        "running": "free",
    }
    assert {k.prompt_id for k in ledger.lost} == {"lost", "lost and trained", "dropped by lost weights"}


def test_a_phase_begun_anew_under_a_used_number_is_not_confused_with_the_lost_one():
    """No checkpoint: the phase's weights were version 10, step 1 made a lost 11, and the new start is 11."""
    events = [begun(10), *history("first", versions=(10, 10)), *history("lost", versions=(11, 11)), begun(11)]
    ledger = Ledger(events)
    assert (ledger.state(key("first")), ledger.state(key("lost"))) == ("buffered", "free")


def test_a_second_resume_measures_from_the_first():
    events = [
        begun(10),
        begun(11),  # begun anew: step k is version 11 + k from here on
        *history("of step 2", versions=(13, 13)),
        *history("of step 3", versions=(14, 14)),
        begun(13, done=2),
    ]
    ledger = Ledger(events)
    assert (ledger.state(key("of step 2")), ledger.state(key("of step 3"))) == ("buffered", "free")


def test_earlier_iterations_are_not_touched_by_a_resume():
    events = [begun(10, iteration=0), *history("a", Trained((key("a"),), 11), versions=(10, 10)), begun(5, iteration=1)]
    assert Ledger(events).state(key("a")) == "trained"


# -- the order of prompts ---------------------------------------------------------------------------------------


PROMPTS = [f"p{i}" for i in range(7)]


def test_each_epoch_has_every_prompt_once_in_an_order_of_its_own():
    order = PromptOrder(PROMPTS, 3, Ledger())
    keys = [order.next() for _ in range(21)]
    epochs = [[k.prompt_id for k in keys if k.epoch == epoch] for epoch in range(3)]
    assert [k.epoch for k in keys] == [0] * 7 + [1] * 7 + [2] * 7
    assert all(sorted(epoch) == PROMPTS for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_group_given_back_comes_before_all_later_ones():
    order = PromptOrder(PROMPTS, 3, Ledger())
    first, second = order.next(), order.next()
    order.put_back(second)
    order.put_back(first)
    assert [order.next(), order.next()] == [first, second]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_happens_and_however_often_it_restarts_no_prompt_is_skipped_or_repeated(data: st.DataObject):
    events: list = [begun(0)]
    ledger = Ledger(events)
    order = PromptOrder(PROMPTS, 3, ledger)

    def record(event: object) -> None:
        ledger.apply(event)  # type: ignore[arg-type]
        events.append(event)

    done: list[GroupKey] = []
    leased: list[GroupKey] = []
    for action in data.draw(st.lists(st.sampled_from(["lease", "lease", "finish", "release", "crash"]), max_size=60)):
        if action == "lease":
            leased.append(order.next())
            record(Leased(leased[-1], "w", 0))
        elif action == "crash":  # leases are void, everything else is in the log
            events.append(begun(0))
            ledger = Ledger(events)
            order = PromptOrder(PROMPTS, 3, ledger)
            leased.clear()
        elif leased:
            group = leased.pop(data.draw(st.integers(0, len(leased) - 1)))
            if action == "finish":
                record(Finished(group, "w", PayloadRef(1, 0), 0, 0, "buffered"))
                done.append(group)
            else:
                record(Released(group, "given_back"))
                order.put_back(group)
    assert len(set(done)) == len(done)
    assert not set(done) & set(leased)
    target = 7 * (max((k.epoch for k in done + leased), default=0) + 1)
    while len(done) + len(leased) < target:  # drain: what is left of the epochs begun is exactly what was not had
        leased.append(order.next())
    had = sorted((k.epoch, k.prompt_id) for k in done + leased)
    assert had == [(epoch, p) for epoch in range(target // 7) for p in PROMPTS]
