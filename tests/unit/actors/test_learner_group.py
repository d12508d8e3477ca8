import asyncio

import pytest

from actors.learner_group import LearnerGroup
from actors.waiting import PeerLost


class FakeRank:
    def __init__(self, answer: object = None, fails: Exception | None = None, hangs: bool = False) -> None:
        self.answer, self.fails, self.hangs, self.calls = answer, fails, hangs, []

    async def call(self, method, *args):
        self.calls.append((method, *args))
        if self.hangs:
            await asyncio.sleep(3600)
        if self.fails:
            raise self.fails
        return self.answer


def test_every_rank_gets_the_same_call_and_rank_0_answers():
    ranks = [FakeRank("first"), FakeRank("second")]
    assert asyncio.run(LearnerGroup(ranks).weights_hash()) == "first"
    assert ranks[0].calls == ranks[1].calls == [("weights_hash",)]


def test_the_first_failure_wins_and_nobody_waits_for_ranks_that_hang_in_a_collective():
    group = LearnerGroup([FakeRank(hangs=True), FakeRank(fails=PeerLost("learner-1 died during step"))])

    async def step():
        async with asyncio.timeout(2):
            await group.step(None, "rl")

    with pytest.raises(PeerLost, match="learner-1 died"):
        asyncio.run(step())


def test_a_collective_that_ran_out_of_time_is_a_time_out_and_other_failures_stay_what_they_are():
    gloo = "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 3000ms for recv operation to complete"
    with pytest.raises(TimeoutError, match=r"learner rank 1 waited in vain for another rank in stage: .*3000ms"):
        asyncio.run(LearnerGroup([FakeRank(), FakeRank(fails=RuntimeError(gloo))]).stage(None))
    with pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(LearnerGroup([FakeRank(fails=RuntimeError("out of memory"))]).stage(None))


def test_a_checkpoint_is_saved_when_every_rank_says_so():
    for answers in ((True, True), (True, False), (False, True)):
        assert asyncio.run(LearnerGroup([FakeRank(answer) for answer in answers]).saved(0.0)) == all(answers)
