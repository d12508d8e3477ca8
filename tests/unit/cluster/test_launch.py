"""How the ranks of a run find each other."""

import asyncio

import pytest

from actors.waiting import DeadlineExceeded
from cluster.launch import connect


class FakeRank:
    """Notes what `connect` is given; one that is slow never joins."""

    def __init__(self, slow: bool = False) -> None:
        self.slow, self.connected, self.deadline = slow, None, 0.0

    def with_deadline(self, seconds):
        self.deadline = seconds
        return self

    async def call(self, method, *args):
        if method == "rendezvous":
            return "10.0.0.1", 29500
        if self.slow:
            await asyncio.sleep(60)
        self.connected = args
        return None


def test_ranks_wait_for_one_another_in_collectives_as_long_as_a_learner_call_may_take():
    ranks = {f"learner-{i}": FakeRank() for i in range(2)}
    asyncio.run(connect(ranks, 300.0, 600.0))
    assert [rank.connected for rank in ranks.values()] == [("10.0.0.1", 29500, 600.0)] * 2
    assert [rank.deadline for rank in ranks.values()] == [300.0] * 2  # joining is the work of a start


def test_a_rank_that_does_not_join_in_time_is_named_with_the_setting_that_gives_it_more():
    ranks = {"learner-0": FakeRank(), "learner-1": FakeRank(slow=True)}
    with pytest.raises(DeadlineExceeded, match=r"learner-1 joins .* \(actors\.start_timeout_s\): no answer in 0.05 s"):
        asyncio.run(connect(ranks, 0.05, 600.0))
