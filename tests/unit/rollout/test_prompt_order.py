from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.events import Finished, Leased, PayloadRef, PhaseBegun, Released
from rollout.ledger import Ledger
from rollout.prompt_order import PromptOrder, Share
from rollout.records import GroupKey

IDS = tuple(f"p{i}" for i in range(7))
ONE = [Share(IDS)]
WEIGHTS = st.one_of(st.integers(1, 9).map(float), st.sampled_from([0.1, 0.3, 0.05, 2.5, 1 / 3]))
MIXTURES = st.lists(st.tuples(st.integers(1, 6), WEIGHTS), min_size=1, max_size=4).map(
    lambda drawn: [Share(tuple(f"{s}/{i}" for i in range(n)), weight) for s, (n, weight) in enumerate(drawn)]
)


def home(key: GroupKey) -> int:
    return int(key.prompt_id.partition("/")[0])


def test_one_source_gives_every_prompt_once_per_epoch_in_orders_that_follow_from_the_seed() -> None:
    order = PromptOrder(ONE, 3, Ledger())
    keys = [order.next() for _ in range(21)]
    expected = [
        GroupKey("train", epoch, IDS[i])
        for epoch in range(3)
        for i in np.random.default_rng([3, epoch]).permutation(7)  # as in runs made before there were mixtures
    ]
    assert keys == expected
    assert [key.prompt_id for key in keys[:7]] != [key.prompt_id for key in keys[7:14]]


def test_a_group_given_back_comes_before_all_later_ones() -> None:
    order = PromptOrder(ONE, 3, Ledger())
    first, second = order.next(), order.next()
    order.put_back(second)
    order.put_back(first)
    assert [order.next(), order.next()] == [first, second]


def test_three_to_one_is_three_to_one_within_every_four_groups() -> None:
    order = PromptOrder([Share(("0/a", "0/b"), 3.0), Share(("1/a", "1/b", "1/c"), 1.0)], 0, Ledger())
    turns = "".join(str(home(order.next())) for _ in range(12))
    assert turns == "001000100010"


def test_sources_of_the_same_size_are_shuffled_apart() -> None:
    size = 50
    order = PromptOrder([Share(tuple(f"{s}/{i}" for i in range(size))) for s in range(2)], 0, Ledger())
    numbers: dict[int, list[str]] = defaultdict(list)
    for key in [order.next() for _ in range(2 * size)]:
        numbers[home(key)].append(key.prompt_id.partition("/")[2])
    assert numbers[0] != numbers[1]


@given(MIXTURES, st.integers(1, 120), st.integers(0, 5))
def test_at_any_cut_each_source_has_its_share_and_goes_through_its_rows_once_per_pass(
    mixture: list[Share], drawn: int, seed: int
) -> None:
    order = PromptOrder(mixture, seed, Ledger())
    keys = [order.next() for _ in range(drawn)]
    assert len(set(keys)) == drawn
    counts, total = Counter(map(home, keys)), sum(share.weight for share in mixture)
    for s, share in enumerate(mixture):
        part = share.weight / total
        assert abs(counts[s] - drawn * part) <= 0.5 + len(mixture) * part / 2 + 1e-9
        passes: dict[int, list[str]] = defaultdict(list)
        for key in keys:
            if home(key) == s:
                passes[key.epoch].append(key.prompt_id)
        assert list(passes) == list(range(len(passes)))  # a pass begins when the one before it is over
        for epoch, ids in passes.items():
            size = len(share.prompt_ids) if epoch < len(passes) - 1 else len(ids)
            assert len(set(ids)) == len(ids) == size


@given(MIXTURES)
def test_weights_by_size_make_one_pass_over_everything(mixture: list[Share]) -> None:
    sized = [Share(share.prompt_ids, float(len(share.prompt_ids))) for share in mixture]
    order = PromptOrder(sized, 1, Ledger())
    for epoch in range(3):
        keys = [order.next() for _ in range(len(order))]
        assert {key.epoch for key in keys} == {epoch}
        assert sorted(key.prompt_id for key in keys) == sorted(i for share in mixture for i in share.prompt_ids)


@given(MIXTURES, st.integers(0, 60), st.integers(1, 40))
def test_a_resume_at_any_cursor_goes_on_like_an_uninterrupted_run(mixture: list[Share], done: int, more: int) -> None:
    uninterrupted = PromptOrder(mixture, 2, Ledger())
    events: list = [PhaseBegun("rl", 0, 0, 0)]
    for key in [uninterrupted.next() for _ in range(done)]:
        events += [Leased(key, "w", 0), Finished(key, "w", 0, PayloadRef(1, 0), 0, 0, "buffered", "")]
    resumed = PromptOrder(mixture, 2, Ledger(events))
    assert [resumed.next() for _ in range(more)] == [uninterrupted.next() for _ in range(more)]


@given(MIXTURES, st.integers(1, 60))
def test_positions_are_in_the_order_of_the_draws(mixture: list[Share], drawn: int) -> None:
    order = PromptOrder(mixture, 4, Ledger())
    positions = [order.position(order.next()) for _ in range(drawn)]
    assert positions == sorted(set(positions))


@settings(max_examples=60)
@given(st.data())
def test_whatever_happens_and_however_often_it_restarts_no_prompt_is_skipped_or_repeated(data: st.DataObject) -> None:
    mixture = data.draw(st.sampled_from([ONE, [Share(IDS[:3], 2.0), Share(IDS[3:], 1.0)]]))
    events: list = [PhaseBegun("rl", 0, 0, 0)]
    ledger = Ledger(events)
    order = PromptOrder(mixture, 3, ledger)

    def record(event: object) -> None:
        ledger.apply(event)  # type: ignore[arg-type]
        events.append(event)

    done: list[GroupKey] = []
    leased: list[GroupKey] = []
    for action in data.draw(st.lists(st.sampled_from(["lease", "lease", "finish", "release", "crash"]), max_size=60)):
        if action == "lease":
            leased.append(order.next())
            record(Leased(leased[-1], "w", ledger.attempts(leased[-1])))
        elif action == "crash":  # leases are void, everything else is in the log
            record(PhaseBegun("rl", 0, 0, 0))
            ledger = Ledger(events)
            order = PromptOrder(mixture, 3, ledger)
            leased.clear()
        elif leased:
            group = leased.pop(data.draw(st.integers(0, len(leased) - 1)))
            if action == "finish":
                record(Finished(group, "w", ledger.attempts(group) - 1, PayloadRef(1, 0), 0, 0, "buffered", ""))
                done.append(group)
            else:
                record(Released(group, "given_back"))
                order.put_back(group)
    assert len(set(done)) == len(done)
    assert not set(done) & set(leased)
    while len(done) + len(leased) < 63:  # drain: more than was ever leased, so nothing that came back is left
        leased.append(order.next())
    fresh = PromptOrder(mixture, 3, Ledger())
    assert set(done) | set(leased) == {fresh.next() for _ in range(63)}


@pytest.mark.parametrize(("ids", "weight"), [((), 1.0), (("a",), 0.0), (("a",), float("inf")), (("a",), -1.0)])
def test_a_share_of_nothing_is_refused(ids: tuple[str, ...], weight: float) -> None:
    with pytest.raises(ValueError, match="a source has prompts and a finite weight above 0, got"):
        Share(ids, weight)
