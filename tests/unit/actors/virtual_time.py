"""`asyncio.run` on a clock that jumps to the next timer instead of waiting: how busy the machine is decides nothing."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _Jumping(selectors.DefaultSelector):
    """Never waits for a timer; the clock goes forward by as long as it would have."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is not None:
            self.now += timeout
        return super().select(0 if timeout else timeout)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Jumping()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run_virtually(work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end; `asyncio.get_running_loop().time()` is the time in it."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)
