"""The one way to wait for another process: with a deadline, and a sentence that says who waits for what.

What is being waited for right now stands in a table of this process, so that a stall can be explained.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class DeadlineExceeded(TimeoutError):
    """Somebody did not answer in time. The message names who waited, for whom and for how long."""


class PeerLost(RuntimeError):
    """A process that was asked for something died. The message names it and says what is known."""


class PeerAway(PeerLost):
    """The same, and another process takes its place, newly constructed: ask again in a while."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One wait that is open now."""

    what: str
    """Who waits for what, with the sample or version where there is one."""
    age_s: float
    """Since when, as an age: clocks of two machines cannot be compared."""
    deadline_s: float
    """After how many seconds it is given up."""


_name = "driver"
_numbers = itertools.count()
_open: dict[int, tuple[str, float, float]] = {}  # (what, since, deadline); other threads read it


def name_this_process(name: str) -> None:
    """Called once, where an actor is hosted; a process that hosts nobody is the driver."""
    global _name
    _name = name


def this_process() -> str:
    """The name of this process, for sentences."""
    return _name


def open_waits() -> list[Wait]:
    """What this process waits for now, oldest first. Any thread may ask."""
    now = time.monotonic()
    return [Wait(what, now - since, deadline) for what, since, deadline in list(_open.values())]


async def within(seconds: float, awaitable: Awaitable[T], what: str) -> T:
    """Await with a deadline.

    Args:
        seconds: How long to wait.
        awaitable: What to wait for; it is cancelled at the deadline.
        what: Who waits for what, e.g. `controller waits for learner-0.step`.

    Raises:
        DeadlineExceeded: After `seconds`.
    """
    number = next(_numbers)
    _open[number] = (what, time.monotonic(), seconds)
    try:
        async with asyncio.timeout(seconds) as scope:
            return await awaitable
    except TimeoutError as error:
        if scope.expired():
            raise DeadlineExceeded(f"{what}: no answer in {seconds:g} s") from error
        raise
    finally:
        del _open[number]


async def unless(event: asyncio.Event, work: Awaitable[T]) -> T | None:
    """The result of `work`, or None when the event is set first; the work is cancelled then."""
    task, happened = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((task, happened), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        happened.cancel()


async def unless_failed(background: "asyncio.Task[Any] | None", work: Awaitable[T]) -> T:
    """The result of `work`; a task in the background that fails first is raised instead: it would wait for ever."""
    task = asyncio.ensure_future(work)
    try:
        if background:
            await asyncio.wait((task, background), return_when=asyncio.FIRST_COMPLETED)
            if background.done():
                background.result()
        return await task
    finally:
        task.cancel()


async def while_progressing(ask: Callable[[], Awaitable[T]], progress: Callable[[], Awaitable[int]]) -> T:
    """Ask again after each time-out as long as `progress` has grown since the last; else the time-out is raised."""
    before = await progress()
    while True:
        try:
            return await ask()
        except TimeoutError:
            now = await progress()
            if now == before:
                raise
            before = now
