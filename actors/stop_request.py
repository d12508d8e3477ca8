"""Waits that a stop request ends.

consumes    requests to stop; how much the buffer has taken in
produces    `Interrupted` for whoever waits
waits for   the buffer, as long as answers keep coming in
unblocked   by an answer, a request to stop, or the failure of a transfer in the background
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from actors.endings import Interrupted
from actors.progress import Progress
from actors.protocols import Buffer
from actors.waiting import unless, unless_failed, while_progressing

T = TypeVar("T")


class StopRequest:
    """Whether somebody asked the run to stop, and the waits that end then."""

    def __init__(
        self,
        buffer: Buffer,
        progress: Progress,
        stall_s: float,
        background: Callable[[], "asyncio.Task[Any] | None"] = lambda: None,
    ) -> None:
        """`background` is work without which no wait would end: its failure ends them too."""
        self._buffer = buffer
        self._progress = progress
        self._stall_s = stall_s
        self._background = background
        self._event = asyncio.Event()
        self.reason = ""

    def ask(self, reason: str) -> None:
        """Somebody asks the run to stop."""
        self.reason = reason
        self._event.set()

    @property
    def asked(self) -> bool:
        """Whether somebody has."""
        return self._event.is_set()

    async def patiently(self, ask: Callable[[float], Coroutine[Any, Any, T]], what: str, shown: bool = True) -> T:
        """Wait as long as answers keep coming in; give up after `stall_s` without any.

        Args:
            ask: Asks the buffer, given how many seconds it may take.
            what: What for, in words.
            shown: Whether it is what the run waits for; other waits may be open beside it.

        Raises:
            Interrupted: Somebody asked to stop.
            TimeoutError: Nothing came in any more.
        """
        if shown:
            self._progress.waiting(f"buffer: {what}")

        async def came_in() -> int:
            status = await self._buffer.status()
            return status.finished + status.reported

        async def once() -> T:
            answer = await unless(self._event, unless_failed(self._background(), ask(self._stall_s)))
            if answer is None:
                raise Interrupted(self.reason)
            return answer

        return await while_progressing(once, came_in)
