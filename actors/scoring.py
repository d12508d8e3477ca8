"""How a rollout worker gets its verdicts: few calls to the pool at a time, each with all that came up meanwhile. An
answer that takes long gets a ticket and is waited for apart, so it holds up no other.

The one place where an exception becomes data: an answer that cannot be scored gets a verdict with status `error`,
which is counted and never becomes a reward. A pool that is gone is no property of an answer: it is waited for.
"""

import asyncio
import logging
import math
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from actors.protocols import Verifiers
from actors.records import Late, Unscored
from actors.waiting import DeadlineExceeded, PeerLost, within
from verifiers.nursery import VerifierUnavailable
from verifiers.records import ScoreRequest, Verdict

logger = logging.getLogger(__name__)

_CALLS = 4
_ANSWERS = 64  # in one call
_RETRY_S = 0.5  # a pool that died is up again within seconds


@dataclass(slots=True, eq=False)
class _Wanted:
    """One answer to score."""

    request: ScoreRequest
    verdict: "asyncio.Future[Verdict]"
    give_up: float = math.inf
    """On the loop's clock; set when its verifier could not be had for the first time."""


class Scoring:
    """Shares calls to the verifier pool among all answers of a worker, as a group commit shares an fsync."""

    def __init__(self, name: str, verifiers: Verifiers, call_timeout_s: float) -> None:
        self._name = name
        self._verifiers = verifiers
        self._call_timeout_s = call_timeout_s
        self._waiting: list[_Wanted] = []
        self._unanswered: set[asyncio.Future[Verdict]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._calling = 0
        """Callers that will look once more at what waits; a task is done only some turns after its last look."""

    async def score(self, request: ScoreRequest) -> Verdict:
        """The verdict on one answer.

        Raises:
            PeerLost: The pool is gone, and did not come back in time; or this was closed.
            VerifierUnavailable: Its verifier cannot be had, and that did not change in time.
        """
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._unanswered.add(verdict)
        verdict.add_done_callback(self._unanswered.discard)
        self._waiting.append(_Wanted(request, verdict))
        if self._calling < _CALLS:
            self._calling += 1
            self._spawn(self._call())
        return await verdict

    def use(self, verifiers: Verifiers) -> None:
        """From now on ask this pool; what the other has begun it still delivers, or it is asked for here."""
        self._verifiers = verifiers

    async def close(self) -> None:
        """End the calls under way; who waits for a verdict is told."""
        for task in self._tasks:
            task.cancel()
        for verdict in list(self._unanswered):
            verdict.set_exception(PeerLost("the worker closes"))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_ANSWERS], self._waiting[_ANSWERS:]
                await self._settle([wanted for wanted in batch if not wanted.verdict.done()])
        finally:
            self._calling -= 1

    async def _settle(self, wanted: list[_Wanted]) -> None:
        try:
            pool, answers = await self._patiently([one.request for one in wanted])
        except Exception as error:
            for one in wanted:
                if not one.verdict.done():
                    one.verdict.set_exception(error)
            return
        for one, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, Late):
                self._spawn(self._come_back(one, pool, answer.ticket))
            elif isinstance(answer, Unscored):
                self._spawn(self._again(one, answer.why))
            elif not one.verdict.done():
                one.verdict.set_result(answer)

    async def _again(self, wanted: _Wanted, why: str) -> None:
        """Ask anew for an answer whose verifier could not be had; the others have their verdicts."""
        clock = asyncio.get_running_loop().time
        wanted.give_up = min(wanted.give_up, clock() + self._call_timeout_s)
        if clock() < wanted.give_up:
            logger.warning("no verifier for an answer, asked again in %g s: %s", _RETRY_S, why)
            await asyncio.sleep(_RETRY_S)
            await self._settle([wanted])
        elif not wanted.verdict.done():
            wanted.verdict.set_exception(VerifierUnavailable(why))

    async def _come_back(self, wanted: _Wanted, pool: Verifiers, ticket: int) -> None:
        """Wait for an answer that takes long, beside the others; ask anew where its pool knows nothing of it."""
        answer: Verdict | Late | None = Late(ticket)
        what = f"{self._name} waits for a late verdict"
        try:
            while isinstance(answer, Late) and not wanted.verdict.done():
                answer = await within(self._call_timeout_s, pool.late(ticket), what)
        except VerifierUnavailable as error:
            await self._again(wanted, str(error))
            return
        except PeerLost as error:
            logger.warning("the verifier pool is gone, with a verdict that took long: %s", error)
            answer = None
        except Exception as error:  # the boundary, as below
            answer = _failed(error)
        if answer is None:
            await self._settle([wanted])
        elif isinstance(answer, Verdict) and not wanted.verdict.done():
            wanted.verdict.set_result(answer)

    async def _patiently(
        self, requests: Sequence[ScoreRequest]
    ) -> tuple[Verifiers, Sequence[Verdict | Late | Unscored]]:
        """Ask until the pool answers; one that was lost is being replaced. Returns the pool too."""
        clock = asyncio.get_running_loop().time
        give_up = clock() + self._call_timeout_s
        while True:
            what, pool = f"{self._name} waits for {len(requests)} verdicts", self._verifiers
            try:
                return pool, await within(self._call_timeout_s, pool.score(requests), what)
            except (PeerLost, VerifierUnavailable) as error:
                if clock() >= give_up:
                    raise
                logger.warning("the verifier pool is gone, asked again in %g s: %s", _RETRY_S, error)
                await asyncio.sleep(_RETRY_S)
            except DeadlineExceeded as error:
                return pool, [_failed(error)] * len(requests)
            except Exception as error:  # the boundary: a bad rollout is data, not a crash
                logger.warning("scoring failed: %s", error)
                return pool, [_failed(error)] * len(requests)


def _failed(error: Exception) -> Verdict:
    return Verdict(None, "error", "pool", "0", feedback=f"{type(error).__name__}: {error}")
