"""How a rollout worker gets its verdicts: few calls to the pool at a time, each with all that came up meanwhile.

The one place where an exception becomes data: an answer that cannot be scored gets a verdict with status `error`,
which is counted and never becomes a reward. A pool that is gone is no property of an answer: it is waited for.
"""

import asyncio
import logging
from collections.abc import Sequence

from actors.protocols import Verifiers
from actors.waiting import DeadlineExceeded, PeerLost, within
from verifiers.pool import VerifierUnavailable
from verifiers.records import ScoreRequest, Verdict

logger = logging.getLogger(__name__)

_CALLS = 4  # a call lasts as long as its slowest answer: the others should not wait for that one
_ANSWERS = 16  # in one call: all of them hang within its deadline, and cost each other nothing
_RETRY_S = 0.5  # a pool that died is up again within seconds


class Scoring:
    """Shares calls to the verifier pool among all answers of a worker, as a group commit shares an fsync."""

    def __init__(self, name: str, verifiers: Verifiers, call_timeout_s: float) -> None:
        self._name = name
        self._verifiers = verifiers
        self._call_timeout_s = call_timeout_s
        self._waiting: list[tuple[ScoreRequest, asyncio.Future[Verdict]]] = []
        self._callers: set[asyncio.Task[None]] = set()
        self._calling = 0
        """Callers that will look once more at what waits; a task is done only some turns after its last look."""

    async def score(self, request: ScoreRequest) -> Verdict:
        """The verdict on one answer.

        Raises:
            PeerLost: The pool is gone, and did not come back in time.
        """
        verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, verdict))
        if self._calling < _CALLS:
            self._calling += 1
            caller = asyncio.create_task(self._call())
            self._callers.add(caller)
            caller.add_done_callback(self._callers.discard)
        return await verdict

    async def close(self) -> None:
        """End the calls under way."""
        for caller in self._callers:
            caller.cancel()

    async def _call(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_ANSWERS], self._waiting[_ANSWERS:]
                await self._settle([(request, future) for request, future in batch if not future.done()])
        finally:
            self._calling -= 1

    async def _settle(self, wanted: "list[tuple[ScoreRequest, asyncio.Future[Verdict]]]") -> None:
        try:
            verdicts = await self._patiently([request for request, _ in wanted])
        except BaseException as error:
            for _, future in wanted:
                if not future.done():
                    future.set_exception(error if isinstance(error, Exception) else PeerLost("the worker closes"))
            if not isinstance(error, Exception):
                raise
        else:
            for (_, future), verdict in zip(wanted, verdicts, strict=True):
                if not future.done():
                    future.set_result(verdict)

    async def _patiently(self, requests: Sequence[ScoreRequest]) -> list[Verdict]:
        """Ask until the pool answers; one that was lost is being replaced."""
        clock = asyncio.get_running_loop().time
        give_up = clock() + self._call_timeout_s
        while True:
            what = f"{self._name} waits for {len(requests)} verdicts"
            try:
                return await within(self._call_timeout_s, self._verifiers.score(requests), what)
            except (PeerLost, VerifierUnavailable) as error:
                if clock() >= give_up:
                    raise
                logger.warning("the verifier pool is gone, asked again in %g s: %s", _RETRY_S, error)
                await asyncio.sleep(_RETRY_S)
            except DeadlineExceeded as error:
                return [_failed(error)] * len(requests)
            except Exception as error:  # the boundary: a bad rollout is data, not a crash
                logger.warning("scoring failed: %s", error)
                return [_failed(error)] * len(requests)


def _failed(error: Exception) -> Verdict:
    return Verdict(None, "error", "pool", "0", feedback=f"{type(error).__name__}: {error}")
