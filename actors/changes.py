"""Wakes whoever waits for a change of state, within one event loop."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Changes:
    """`notify` after each change; `wait` for the next; `until` a look at the state finds what is wanted."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def notify(self) -> None:
        """Something changed."""
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Return at the next change, or after `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._next.wait()

    async def first(
        self, look: Callable[[], T | None], timeout_s: float, at_least_every: Callable[[], float] | None = None
    ) -> T | None:
        """What `look` finds at once or after a change within `timeout_s`, else None.

        `at_least_every` says how many seconds may pass before the next look: some things change by time alone.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        while (found := look()) is None and (left := deadline - clock()) > 0:
            await self.wait(min(left, at_least_every()) if at_least_every else left)
        return found

    async def until(self, look: Callable[[], T | str], timeout_s: float, what: str) -> T:
        """What `look` finds, once it finds something; before, it says in words what is missing.

        Raises:
            TimeoutError: After `timeout_s`, with those words.
        """
        missing = ""

        def note_missing() -> T | None:
            nonlocal missing
            found = look()
            if not isinstance(found, str):
                return found
            missing = found
            return None

        found = await self.first(note_missing, timeout_s)
        if found is None:
            raise TimeoutError(f"no {what} within {timeout_s:g} s: {missing}")
        return found
