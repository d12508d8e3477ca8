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

    async def until(self, look: Callable[[], T | str], timeout_s: float, what: str) -> T:
        """What `look` finds, once it finds something; before, it says in words what is missing.

        Raises:
            TimeoutError: After `timeout_s`, with those words.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        while isinstance(found := look(), str):
            if clock() >= deadline:
                raise TimeoutError(f"no {what} within {timeout_s:g} s: {found}")
            await self.wait(deadline - clock())
        return found
