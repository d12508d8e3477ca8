"""An engine's end of transports where the learner pushes into the engine's own processes: NCCL and CUDA-IPC.

The engine asks and the learner's sender answers, so a version can be sent again, or to a newcomer, while the learner
trains on. One line to the sender is one group: {learner rank 0, the workers of this engine}. Independent engines would
all take the same place in a common group; here each has its own, and one that dies takes nobody else's with it. What
goes to vLLM (`init_info`, `update_info`) the sender decides; this end carries it over without looking inside.

    engine                                  learner's sender
    workers=2, timeout_s=600     →
                                 ←          init_info
    init_weight_transfer_engine  ‖          opens its end of the group
                                 ←          met
    version=7                    →
                                 ←          update_info, or refused: nothing was touched
    pause, start_weight_update
    go                           →
    update_weights               ‖          sends
                                 ←          sent
    finish_weight_update, resume
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from rollout.engine import WeightsMissing
from rollout.transports.line import Line
from rollout.weights import RowSource, WeightSlot

ANSWER_TIMEOUT_S = 20.0
"""How long the sender may take to answer where it has only to look something up."""
LAST_WORD_S = 1.0
"""How much longer than the sender an engine waits, to hear why the sender gave up."""

Info = dict[str, Any]
JoinGroup = Callable[[Info], Coroutine[Any, Any, None]]
"""Makes the engine's workers leave the group they are in, if any, and join the one of these facts."""


class WeightInlet:
    """Keeps the group with the learner's sender, and gets versions announced and sent.

    Args:
        join: What the engine does to join a group; it runs while the sender opens its end.
        workers: How many processes of the engine take weights (its tensor-parallel size).
        send_timeout_s: How long building a group, or one transfer, may take. The sender is told, and either end gives
            up then, each by itself.
        neighbour: The learner rank on the engine's GPU, where each rank serves the engine beside it; None where rank 0
            serves all engines.
    """

    def __init__(self, join: JoinGroup, workers: int, send_timeout_s: float, neighbour: int | None = None) -> None:
        self._join = join
        self._workers = workers
        self._send_timeout_s = send_timeout_s
        self._neighbour = neighbour
        self._source: RowSource | None = None
        self._line: Line | None = None

    async def announced(self, slot: WeightSlot) -> Info:
        """vLLM's `update_info` of a version that the sender is ready to send. The engine computes as before.

        Joins the sender's group first where there is none: at first, after a failure, and when the learner is a new
        process.

        Raises:
            WeightsMissing: The sender cannot be reached or does not hold the version.
        """
        source = self._source_among(slot.layout.sources)
        if self._line is None or source != self._source or self._line.ended():
            await self._meet(source)
        await self._say(version=slot.version)
        info: Info = (await self._hear(f"announcement of version {slot.version}", ANSWER_TIMEOUT_S))["update_info"]
        return info

    def _source_among(self, sources: tuple[RowSource, ...]) -> RowSource:
        if self._neighbour is None and len(sources) == 1:
            return sources[0]
        if self._neighbour is not None and len(sources) > self._neighbour:
            return sources[self._neighbour]
        who = "one learner rank pushes" if self._neighbour is None else f"learner rank {self._neighbour} must push"
        raise ValueError(
            f"{who} weights to this engine, got {len(sources)} sources; learner and engine must be given the same "
            "actors.weight_transport"
        )

    async def sent(self, version: int) -> None:
        """Let the sender begin; returns when all has gone out. To be awaited beside vLLM's `update_weights`.

        Raises:
            WeightsMissing: The sender failed or gave up; the workers may still wait in the collective.
        """
        await self._say(go=version)
        await self._hear(f"the end of sending version {version}", self._send_timeout_s + LAST_WORD_S)

    def close(self) -> None:
        """Leave the group: the sender ends its side. Safe to call twice."""
        if self._line:
            self._line.close()
        self._line = None

    async def _meet(self, source: RowSource) -> None:
        self.close()
        self._line, self._source = await asyncio.to_thread(Line.to, source, ANSWER_TIMEOUT_S), source
        await self._say(workers=self._workers, timeout_s=self._send_timeout_s)
        init_info = (await self._hear("the facts of a group", ANSWER_TIMEOUT_S))["init_info"]
        try:
            async with asyncio.TaskGroup() as both:  # when one fails the other is not waited for: it may hang
                both.create_task(self._join(init_info))
                both.create_task(self._hear("the sender to join the group", self._send_timeout_s + LAST_WORD_S))
        except ExceptionGroup as failures:
            self.close()
            raise failures.exceptions[0] from None

    @property
    def _open_line(self) -> Line:
        if self._line is None:
            raise WeightsMissing("the engine left the group while a version was under way: it is being closed")
        return self._line

    async def _say(self, **message: Any) -> None:
        try:
            await asyncio.to_thread(self._open_line.say, **message)
        except WeightsMissing:
            self.close()  # the next attempt builds a new group
            raise

    async def _hear(self, what: str, timeout_s: float) -> Info:
        try:
            return await asyncio.to_thread(self._open_line.hear, what, timeout_s)
        except WeightsMissing:
            self.close()
            raise
