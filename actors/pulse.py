"""What every hosted process can say of itself at any moment, also while it is busy: who it is, what it does, what
it waits for. The supervisor asks for it; silence is the sign of a process that hangs.
"""

import asyncio
import inspect
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

from actors.waiting import Wait, open_waits, this_process


@dataclass(frozen=True, slots=True)
class Doing:
    """A method that is being executed."""

    method: str
    age_s: float


@dataclass(frozen=True, slots=True)
class Pulse:
    """One actor as of now."""

    name: str
    process_id: int
    born: float
    """When the process began, seconds since the epoch: with node and process id, it tells a process from its
    successor."""
    node_id: str
    stamp: int
    """Grows whenever the actor gets something done: calls that ended, and what its `progress_stamp` counts."""
    blocked_s: float
    """Since when the actor's event loop has not turned: somebody blocks it. 0 where all is well, and for a class
    of ordinary methods, which blocks by nature."""
    doing: tuple[Doing, ...]
    waits: tuple[Wait, ...]


class Vitals:
    """Keeps what a pulse tells of one hosted object. The pulse is taken in a thread of its own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._numbers = itertools.count()
        self._doing: dict[int, tuple[str, float]] = {}
        self._done = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked_at: float | None = None  # when the loop was asked to turn, until it does

    def begin(self, method: str) -> int:
        """A call begins; returns its number, for `end`."""
        number = next(self._numbers)
        self._doing[number] = (method, self._clock())
        return number

    def end(self, number: int) -> None:
        """A call has ended, well or not."""
        del self._doing[number]
        self._done += 1

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch that this event loop turns."""
        self._loop = loop

    def pulse(self, node_id: str, progress_stamp: int = 0) -> Pulse:
        """Everything as of now."""
        now = self._clock()
        return Pulse(
            name=this_process(),
            process_id=os.getpid(),
            born=psutil.Process().create_time(),
            node_id=node_id,
            stamp=self._done + progress_stamp,
            blocked_s=self._blocked_s(now),
            doing=tuple(Doing(method, now - since) for method, since in list(self._doing.values())),
            waits=tuple(open_waits()),
        )

    def _blocked_s(self, now: float) -> float:
        """Ask the loop to turn, unless it has been asked and has not done so: then that is how long it is stuck."""
        if self._loop is None or self._loop.is_closed():
            return 0.0
        if self._asked_at is not None:
            return now - self._asked_at
        self._asked_at = now
        self._loop.call_soon_threadsafe(self._turned)
        return 0.0

    def _turned(self) -> None:
        self._asked_at = None


def with_vitals(cls: type) -> dict[str, Any]:
    """Methods to stand for the public ones of `cls`: each calls that of `self.hosted`, and notes in `self.vitals` when
    it begins and ends.

    They do not refer to `cls`: who is given such an object to call, from another process, does not import what it does.
    """
    return {
        name: _standing_for(name, method.__doc__, inspect.iscoroutinefunction(method))
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if not name.startswith("_")
    }


def _standing_for(name: str, doc: str | None, is_async: bool) -> Callable[..., Any]:
    async def call_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.vitals.follow(asyncio.get_running_loop())
        number = self.vitals.begin(name)
        try:
            return await getattr(self.hosted, name)(*args, **kwargs)
        finally:
            self.vitals.end(number)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        number = self.vitals.begin(name)
        try:
            return getattr(self.hosted, name)(*args, **kwargs)
        finally:
            self.vitals.end(number)

    chosen: Callable[..., Any] = call_async if is_async else call
    chosen.__name__ = chosen.__qualname__ = name
    chosen.__doc__ = doc
    return chosen
