"""Sharing calls to a verifier pool whose calls end when the test says so."""

import asyncio

from actors.scoring import Scoring
from verifiers.records import ScoreRequest, Verdict

RIGHT = Verdict(1.0, "correct", "fake", "1")
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


def test_a_call_has_few_answers_so_that_some_that_hang_do_not_spoil_many():
    async def main() -> None:
        pool = Pool()
        scoring = Scoring("w0", pool, 60.0)
        scores = [asyncio.create_task(scoring.score(ANSWER)) for _ in range(100)]
        await turns()
        assert len(pool.sizes) == 4
        while not all(score.done() for score in scores):
            pool.answer()
            await turns()
        assert sum(pool.sizes) == 100
        assert max(pool.sizes) == 16

    asyncio.run(main())
