"""Sharing calls to a verifier pool whose calls end when the test says so."""

import asyncio
from dataclasses import replace

import pytest

from actors.records import Late, Unscored
from actors.scoring import Scoring
from actors.waiting import PeerLost
from verifiers.nursery import VerifierUnavailable
from verifiers.records import ScoreRequest, Verdict

RIGHT, WRONG = Verdict(1.0, "correct", "fake", "1"), Verdict(0.0, "wrong", "fake", "1")
ANSWER = ScoreRequest(prompt="p", response="r", reference="x", truncated=False)


class Pool:
    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.open: list[asyncio.Future[None]] = []

    async def score(self, requests):
        self.sizes.append(len(requests))
        self.open.append(asyncio.get_running_loop().create_future())
        await self.open[-1]
        return [RIGHT] * len(requests)

    def answer(self) -> None:
        for call in self.open:
            if not call.done():
                call.set_result(None)


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_an_answer_that_ends_in_the_same_turn_as_all_calls_is_scored():
    async def main() -> None:
        pool = Pool()
        scoring = Scoring("w0", pool, 60.0)
        for calls in range(1, 50):  # however many turns there are between a call's last look and its end
            first = []
            for _ in range(4):
                first.append(asyncio.create_task(scoring.score(ANSWER)))
                await turns()
            pool.answer()
            await turns(calls % 7)
            last = asyncio.create_task(scoring.score(ANSWER))
            await turns(20)
            pool.answer()
            async with asyncio.timeout(5):
                assert await asyncio.gather(*first, last) == [RIGHT] * 5

    asyncio.run(main())


def test_what_comes_up_during_calls_goes_together_in_the_next():
    async def main() -> None:
        pool = Pool()
        scoring = Scoring("w0", pool, 60.0)
        scores = [asyncio.create_task(scoring.score(ANSWER)) for _ in range(200)]
        await turns()
        assert len(pool.sizes) == 4
        while not all(score.done() for score in scores):
            pool.answer()
            await turns()
        assert sum(pool.sizes) == 200
        assert max(pool.sizes) == 64

    asyncio.run(main())


class LatePool:
    """Gives tickets for answers that say `slow`; `forgets` them when it is told to, as a new pool would."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.forgets = False
        self.ready = asyncio.Event()

    async def score(self, requests):
        self.asked.append([request.response for request in requests])
        return [Late(7) if request.response == "slow" else RIGHT for request in requests]

    async def late(self, ticket):
        assert ticket == 7
        if self.forgets:
            self.forgets = False
            return None
        await self.ready.wait()
        return WRONG


def test_an_answer_that_takes_long_holds_up_no_other_and_gets_its_verdict_in_the_end():
    async def main() -> None:
        pool = LatePool()
        scoring = Scoring("w0", pool, 60.0)
        slow = asyncio.create_task(scoring.score(replace(ANSWER, response="slow")))
        fine = await asyncio.gather(*(scoring.score(ANSWER) for _ in range(20)))
        assert fine == [RIGHT] * 20
        assert not slow.done()
        pool.ready.set()
        assert await slow == WRONG

    asyncio.run(main())


def test_a_ticket_that_a_replaced_pool_does_not_know_is_asked_anew():
    async def main() -> None:
        pool = LatePool()
        pool.forgets = True
        pool.ready.set()
        assert await Scoring("w0", pool, 60.0).score(replace(ANSWER, response="slow")) == WRONG
        assert pool.asked == [["slow"], ["slow"]]

    asyncio.run(main())


class PartlyBrokenPool:
    """Has no verifier for answers that say `odd`, so many times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.asked: list[list[str]] = []

    async def score(self, requests):
        self.asked.append([request.response for request in requests])
        self.times -= "odd" in self.asked[-1]
        return [Unscored("no sandbox") if r.response == "odd" and self.times >= 0 else RIGHT for r in requests]


def test_an_answer_whose_verifier_cannot_be_had_is_asked_for_again_alone():
    async def main() -> None:
        pool = PartlyBrokenPool(times=1)
        scoring = Scoring("w0", pool, 60.0)
        odd = asyncio.create_task(scoring.score(replace(ANSWER, response="odd")))
        other = asyncio.create_task(scoring.score(ANSWER))
        async with asyncio.timeout(10):
            assert await other == RIGHT
            assert not odd.done()
            assert await odd == RIGHT
        assert pool.asked[-1] == ["odd"]

    asyncio.run(main())


def test_a_verifier_that_stays_away_is_given_up_in_words():
    async def main() -> None:
        scoring = Scoring("w0", PartlyBrokenPool(times=1000), 0.7)
        with pytest.raises(VerifierUnavailable, match="no sandbox"):
            await asyncio.wait_for(scoring.score(replace(ANSWER, response="odd")), 10)

    asyncio.run(main())


def test_at_the_end_whoever_waits_is_told():
    async def main() -> None:
        scoring = Scoring("w0", Pool(), 60.0)
        scores = [asyncio.create_task(scoring.score(ANSWER)) for _ in range(400)]
        await turns()
        await scoring.close()
        for score in scores:
            with pytest.raises(PeerLost, match="closes"):
                await asyncio.wait_for(score, 1)

    asyncio.run(main())


def test_another_pool_is_asked_from_then_on_and_a_ticket_belongs_to_the_pool_that_gave_it():
    async def main() -> None:
        one, other = LatePool(), LatePool()
        scoring = Scoring("w0", one, 60.0)
        slow = asyncio.create_task(scoring.score(replace(ANSWER, response="slow")))
        await turns()
        scoring.use(other)
        assert await scoring.score(ANSWER) == RIGHT
        assert (one.asked, other.asked) == ([["slow"]], [["r"]])
        one.ready.set()
        assert await slow == WRONG

    asyncio.run(main())


def test_an_answer_at_a_pool_that_closes_is_asked_for_at_the_other():
    class Closing(Pool):
        async def score(self, requests):
            await super().score(requests)
            raise PeerLost("closed")

    async def main() -> None:
        one, other = Closing(), Pool()
        scoring = Scoring("w0", one, 60.0)
        score = asyncio.create_task(scoring.score(ANSWER))
        await turns()
        scoring.use(other)
        one.answer()
        while not other.open:
            await asyncio.sleep(0.01)
        other.answer()
        assert await score == RIGHT

    asyncio.run(main())
