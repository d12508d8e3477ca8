"""The one way to wait for another process: with a deadline, and a sentence that says who waits for what."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class DeadlineExceeded(TimeoutError):
    """Somebody did not answer in time. The message names who waited, for whom and for how long."""


class PeerLost(RuntimeError):
    """A process that was asked for something died. The message names it and says what is known."""


async def within(seconds: float, awaitable: Awaitable[T], what: str) -> T:
    """Await with a deadline.

    Args:
        seconds: How long to wait.
        awaitable: What to wait for; it is cancelled at the deadline.
        what: Who waits for what, e.g. `controller waits for learner/0.step`.

    Raises:
        DeadlineExceeded: After `seconds`.
    """
    try:
        async with asyncio.timeout(seconds) as scope:
            return await awaitable
    except TimeoutError as error:
        if scope.expired():
            raise DeadlineExceeded(f"{what}: no answer in {seconds:g} s") from error
        raise


async def unless(event: asyncio.Event, work: Awaitable[T]) -> T | None:
    """The result of `work`, or None when the event is set first; the work is cancelled then."""
    task, happened = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((task, happened), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        happened.cancel()


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
