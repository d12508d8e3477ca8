from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from verifiers.fair_queue import FairQueue


def filled(owners: str) -> FairQueue[tuple[str, int]]:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number, owner in enumerate(owners):
        queue.put(owner, (owner, number))
    return queue


def test_owners_take_turns_and_each_keeps_its_order() -> None:
    queue = filled("aaaabbc")
    assert queue.take(5) == [("a", 0), ("b", 4), ("c", 6), ("a", 1), ("b", 5)]
    assert queue.take(5) == [("a", 2), ("a", 3)]
    assert len(queue) == 0


def test_what_is_put_back_comes_first_again() -> None:
    queue = filled("aab")
    taken = queue.take(2)
    queue.put_back([owner for owner, _ in taken], taken)
    assert queue.take(3) == [("a", 0), ("b", 2), ("a", 1)]


@given(st.text("abcd", max_size=40), st.lists(st.integers(0, 5), max_size=12))
def test_nothing_is_lost_and_no_owner_gets_two_more_than_another_that_waits(owners: str, sizes: list[int]) -> None:
    queue, given_out = filled(owners), Counter[str]()
    taken = []
    for size in sizes:
        for owner, number in queue.take(size):
            taken.append((owner, number))
            given_out[owner] += 1
            waiting = [other for other in set(owners) if given_out[other] < owners.count(other)]
            assert all(given_out[owner] <= given_out[other] + 1 for other in waiting)
    rest = queue.take(100)
    assert sorted(taken + rest, key=lambda item: item[1]) == [(owner, n) for n, owner in enumerate(owners)]
    assert len(queue) == 0
