"""A network between processes that delays, loses, repeats and reorders, with the errors of `actors.waiting`.

`Peer` is what callers hold instead of an object in another process, as `actors.ray_app.Peer` is on Ray: every call has
a deadline; a caller that gives up does not take its message back; a process that dies ends the calls that wait for it.
"""

import asyncio
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from faults import Faults
from virtual_loop import Crash, Process, VirtualLoop, this_process

from actors.waiting import DeadlineExceeded, PeerLost


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad it is: probabilities per message."""

    delay_s: float = 0.01
    """Longest usual delay."""
    late: float = 0.0
    """The message takes up to `late_s`, perhaps longer than its caller waits."""
    late_s: float = 10.0
    lost: float = 0.0
    """The call arrives, its answer does not; half of these calls do not arrive either."""
    twice: float = 0.0
    """The call arrives a second time, up to `late_s` later."""


CALM = Weather()


class Network:
    """Carries messages; belongs to no process, so messages survive their sender."""

    def __init__(self, loop: VirtualLoop, seed: int, weather: Weather, faults: Faults) -> None:
        self.loop = loop
        self.weather = weather
        self.faults = faults
        self.digest = 0
        """Of every message so far: who got which call, when, in order."""
        self.hear: Callable[[str, Any, Any], None] = lambda method, args, answer: None
        """Told of every answer to a call that somebody waits for."""
        self.random = random.Random(seed)
        self.context = loop.process("network").context

    def later(self, delay: float, call: Callable[..., None], *args: Any) -> None:
        self.loop.call_later(delay, call, *args, context=self.context)

    def delay(self, weather: Weather) -> float:
        if weather.late and self.random.random() < weather.late:
            self.faults.note("late message")
            return self.random.random() * weather.late_s
        return self.random.random() * weather.delay_s

    def send(self, message: "_Call", weather: Weather) -> None:
        """Bring a call to its target once, twice or not at all."""
        if weather.lost and self.random.random() < weather.lost:
            message.answered = True  # nobody will hear of it
            self.faults.note("lost message")
            if self.random.random() < 0.5:
                return
        self.later(self.delay(weather), message.arrive)
        self.repeat(message, weather)

    def repeat(self, message: "_Call", weather: Weather, to: Process | None = None) -> None:
        """Bring it once more, perhaps; only to the process `to` if that is given."""
        if weather.twice and self.random.random() < weather.twice:
            self.faults.note("message twice")
            again = _Call(message.peer, message.method, message.args, message.kwargs, message.future, answered=True)
            again.only = to
            self.later(self.random.random() * weather.late_s, again.arrive)


@dataclass(slots=True)
class Address:
    """Where an object lives now: a restarted process takes over the address of the dead one, as on Ray."""

    process: Process
    target: Any


class Peer:
    """An object that lives in another process."""

    def __init__(
        self,
        network: Network,
        address: Address,
        deadline_s: float,
        faulty: frozenset[str] = frozenset(),
        repeated: frozenset[str] = frozenset(),
    ) -> None:
        """Calls of the methods in `faulty` meet the network's weather; all others only its usual delay.

        Those in `repeated` may arrive twice, at the same process, and nothing worse.
        """
        self.network = network
        self.address = address
        self.deadline_s = deadline_s
        self._faulty = faulty
        self._repeated = repeated

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> "asyncio.Future[Any]":
            return self.call(name, *args, **kwargs)

        setattr(self, name, call)
        return call

    def call(self, method: str, *args: Any, **kwargs: Any) -> "asyncio.Future[Any]":
        """Call a method by name; the future ends with its answer, `DeadlineExceeded` or `PeerLost`."""
        if not this_process().alive:
            raise Crash("a dead process sends nothing")
        loop = self.network.loop
        future = loop.create_future()
        message = _Call(self, method, args, kwargs, future)
        message.deadline = loop.call_later(self.deadline_s, self._give_up, future, method, context=self.network.context)
        self.network.send(message, self.network.weather if method in self._faulty else CALM)
        if method in self._repeated:
            self.network.repeat(message, self.network.weather, to=self.address.process)
        return future

    def _give_up(self, future: "asyncio.Future[Any]", method: str) -> None:
        if not future.done():
            name = self.address.process.name
            future.set_exception(DeadlineExceeded(f"waiting for {name}.{method}: no answer in {self.deadline_s:g} s"))


class _Call:
    """One message on its way, and its answer on the way back."""

    __slots__ = ("answered", "args", "deadline", "future", "kwargs", "method", "only", "peer", "process")

    def __init__(
        self, peer: Peer, method: str, args: Any, kwargs: Any, future: "asyncio.Future[Any]", answered: bool = False
    ) -> None:
        self.peer, self.method, self.args, self.kwargs, self.future = peer, method, args, kwargs, future
        self.answered = answered
        """Nobody hears of its end (any more)."""
        self.process = peer.address.process
        self.only: Process | None = None
        """Another process at this address does not hear it."""
        self.deadline: Any = None
        """When its caller gives up."""

    def arrive(self) -> None:
        address, network = self.peer.address, self.peer.network
        self.process = address.process
        network.digest = zlib.crc32(
            f"{network.loop.time():.9f} {self.process.name} {self.method}".encode(), network.digest
        )
        if not self.process.alive or self.only not in (None, self.process):
            self.lost()
            return
        try:
            work = self.process.context.run(getattr(address.target, self.method), *self.args, **self.kwargs)
        except Exception as error:  # no such method, or other arguments: as if the call had failed there
            work = _failing(error)
        task = network.loop.create_task(work, context=self.process.context)
        if not self.answered:
            self.process.on_death.append(self.lost)
            task.add_done_callback(self.ended, context=network.context)

    def ended(self, task: "asyncio.Task[Any]") -> None:
        if self.answered:
            return
        self.answered = True
        network = self.peer.network
        self.process.on_death.remove(self.lost)
        if not task.cancelled() and not task.exception():
            network.hear(self.method, self.args, task.result())
        network.later(network.random.random() * network.weather.delay_s, self._reply, task)

    def lost(self) -> None:
        """Its target is dead."""
        if not self.answered:
            self.answered = True
            network = self.peer.network
            network.later(network.random.random() * network.weather.delay_s, self._break)

    def _break(self) -> None:
        self.deadline.cancel()
        if not self.future.done():
            self.future.set_exception(PeerLost(f"{self.process.name} died during {self.method}"))

    def _reply(self, task: "asyncio.Task[Any]") -> None:
        self.deadline.cancel()
        if self.future.done():
            return
        if task.cancelled():
            self.future.set_exception(PeerLost(f"{self.process.name} cancelled {self.method}"))
        elif error := task.exception():
            self.future.set_exception(error if isinstance(error, Exception) else PeerLost(self.process.name))
        else:
            self.future.set_result(task.result())


async def _failing(error: Exception) -> None:
    raise error
