"""An asyncio event loop on virtual time, for many processes at once: it decides who lives, who is stopped, who is dead.

Every callback belongs to a `Process`, by the context that it runs in; what a task starts inherits it. A dead process
runs nothing more, not even `finally`; a stopped one does later what it had to do, as after SIGSTOP and SIGCONT. Within
a process callbacks keep their order, as asyncio promises; between processes only delays order anything.
"""

import asyncio
import contextvars
import random
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from heapq import heappop, heappush
from typing import Any


class Crash(BaseException):
    """This process is dead: raised where it touches the disk or the network, so that nothing of it goes on."""


class Deadlock(AssertionError):
    """Nothing is ready and no timer is set, but somebody still waits."""


class OutOfTime(AssertionError):
    """The virtual deadline of the run has passed."""


class Process:
    """One process of the modelled cluster."""

    def __init__(self, name: str, dies_at: int = -1) -> None:
        self.name = name
        self.alive = True
        self.stopped = False
        self.points = 0
        """Places passed so far where it could have died: callbacks that it ran, and edges of its disk operations."""
        self.dies_at = dies_at
        """It dies at this point; -1: it does not."""
        self.context = contextvars.copy_context()
        self.context.run(_PROCESS.set, self)
        self.stops_at = -1
        """It falls silent at this point of a disk operation, or at the first one after it…"""
        self.stop_skips = 0
        """…or so many of them later, so that it is not always the first operation of a flush."""
        self.on_stop: Callable[[], None] = _nothing
        """Called there; it returns when the process goes on."""
        self.parked: list[Handle] = []
        self.on_death: list[Callable[[], None]] = []

    def point(self) -> None:
        """A place where it may die.

        Raises:
            Crash: When it does, and whenever it is dead already.
        """
        self.points += 1
        if self.points == self.dies_at:
            self.kill()
        if 0 <= self.stops_at <= self.points and asyncio.current_task() is None:  # a thread of its own can wait
            self.stop_skips -= 1
            if self.stop_skips < 0:
                self.stops_at = -1
                self.on_stop()
        if not self.alive:
            raise Crash(self.name)

    def kill(self) -> None:
        """SIGKILL."""
        if self.alive:
            self.alive, self.stopped = False, False
            self.parked.clear()
            for tell in self.on_death:
                tell()
            self.on_death.clear()


_PROCESS: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


def this_process() -> Process:
    """The process whose code is running."""
    return _PROCESS.get()


class Handle:
    """A callback to come; what asyncio expects of its handles and timers, and no more."""

    __slots__ = ("_when", "args", "callback", "context", "gone")

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...], context: Any, when: float = 0.0) -> None:
        self.callback, self.args, self._when = callback, args, when
        self.context = contextvars.copy_context() if context is None else context
        self.gone = False

    def cancel(self) -> None:
        self.gone = True
        self.callback, self.args = _nothing, ()  # let go of what they hold

    def cancelled(self) -> bool:
        return self.gone

    def when(self) -> float:
        return self._when


def _nothing() -> None: ...


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs a world of processes until a coroutine of it is done."""

    def __init__(self, seed: int, thread_s: float = 0.002) -> None:
        self._now = 0.0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._pushed = 0
        self._random = random.Random(seed)
        self._thread_s = thread_s
        self._tasks: list[asyncio.Task[Any]] = []  # kept until the end, so that no dead process's task ends early
        self.callbacks = 0
        """Callbacks run so far, by anybody."""
        self.processes: dict[str, Process] = {}

    # -- what a world asks for --------------------------------------------------------------------------------

    def process(self, name: str, dies_at: int = -1) -> Process:
        """A new process, with a name that nobody had before."""
        if name in self.processes:
            raise ValueError(f"process names are never used again, {name!r} was; add a number")
        self.processes[name] = Process(name, dies_at)
        return self.processes[name]

    def run(self, main: Coroutine[Any, Any, Any], process: Process, deadline: float) -> Any:
        """The result of `main`, run as `process`.

        Raises:
            Deadlock: When nothing can happen any more.
            OutOfTime: When virtual time passes `deadline` first.
        """
        with self._current():
            self._deadline = deadline
            self._main = task = self.create_task(main, context=process.context)
            while not task.done():
                self._turn(deadline)
            return task.result()

    def freeze(self, process: Process) -> None:
        """SIGSTOP of the process whose thread calls this: the world goes on until it is resumed, or dead."""
        process.stopped = True
        while process.stopped and not self._main.done():
            self._turn(self._deadline)
        process.stopped = False

    def resume(self, process: Process) -> None:
        """SIGCONT: what the process had to do meanwhile, it does now."""
        process.stopped = False
        self._ready.extend(process.parked)
        process.parked.clear()

    def waiting(self) -> list[str]:
        """Who waits where: a line per task of a living process."""
        lines = []
        for task in [task for task in self._tasks if not task.done()]:
            process = self.processes.get(task.get_name())
            if process is None or process.alive:
                frames = task.get_stack(limit=1)
                where = f"{frames[0].f_code.co_qualname}:{frames[0].f_lineno}" if frames else "nowhere"
                lines.append(f"{task.get_name()}: {where}")
        return sorted(lines)

    def abandon(self) -> None:
        """Forget every task without a word: the world ends. What their `finally` would still do has no effect."""
        self._ready.clear()
        self._timers.clear()
        for task in self._tasks:
            if task.done():
                continue
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with self._current():
                for _ in range(8):  # an `await` within `finally` needs another push
                    try:
                        task.get_coro().close()
                        break
                    except BaseException:
                        continue
        self._ready.clear()
        self._timers.clear()
        self._tasks.clear()

    @contextmanager
    def _current(self) -> Generator[None, None, None]:
        events._set_running_loop(self)
        try:
            yield
        finally:
            events._set_running_loop(None)

    def _turn(self, deadline: float) -> None:
        ready = self._ready
        if not ready:
            self._advance(deadline)
        handle = ready.popleft()
        if handle.gone:
            return
        process = handle.context.get(_PROCESS)
        if process is not None:
            if not process.alive:
                return
            if process.stopped:
                process.parked.append(handle)
                return
        self.callbacks += 1
        try:
            handle.context.run(handle.callback, *handle.args)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # a callback that fails ends nothing, as in asyncio
            pass
        if process is not None:
            process.points += 1
            if process.points == process.dies_at:
                process.kill()

    def _advance(self, deadline: float) -> None:
        """Nothing is ready: jump to the next timer."""
        timers = self._timers
        while timers and timers[0][2].gone:
            heappop(timers)
        if not timers:
            raise Deadlock("nothing is ready and no timer is set; waiting: " + "; ".join(self.waiting()))
        self._now = timers[0][0]
        if self._now > deadline:
            raise OutOfTime(f"not done after {deadline:g} virtual seconds; waiting: " + "; ".join(self.waiting()))
        while timers and timers[0][0] <= self._now:
            self._ready.append(heappop(timers)[2])

    # -- what asyncio asks for --------------------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        handle = Handle(callback, args, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # there is one thread

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return self.call_at(self._now + delay if delay > 0 else self._now, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        handle = Handle(callback, args, context, when)
        self._pushed += 1  # equal times keep their order
        heappush(self._timers, (when, self._pushed, handle))
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> "asyncio.Task[Any]":
        process = context.get(_PROCESS) if context else _PROCESS.get(None)
        task = asyncio.Task(coro, loop=self, name=process.name if process else "outside", context=context)
        self._tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        """A thread: the function runs in one piece, some time from now."""
        future = self.create_future()
        self.call_later(self._random.random() * self._thread_s, _run_inline, future, func, args)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Nobody asked for a failed task: as in the real program, that alone ends nothing."""

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False


def _run_inline(future: "asyncio.Future[Any]", func: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if future.cancelled():
        func(*args)  # a thread cannot be cancelled: it does its work, and nobody hears of it
        return
    try:
        future.set_result(func(*args))
    except Crash:
        return  # this process is dead; nobody is left to hear of it
    except BaseException as error:
        future.set_exception(error)
