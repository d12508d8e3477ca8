"""The rollout workers of a run: hired, brought into the run, let go, and replaced by new ones with new names.

The order matters for a newcomer: its engine comes up, the broadcaster brings it the current weights and attests them,
and only then it asks for leases. For one that is lost: its process ends, its leases are freed, the broadcaster
forgets it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from actors.waiting import within
from cluster.casting import Casting
from cluster.ensemble import START_KEY, Ensemble
from cluster.seating import Seat

if TYPE_CHECKING:
    from actors.ray_app import Peer

logger = logging.getLogger(__name__)

_DRAIN_S = 30.0  # engines end their requests between two steps, and weights may be on their way
_TELL_S = 5.0  # how long others have to take note that a worker is lost; they find out by themselves, later


class Workforce:
    """The rollout workers. They share the verifier pools out; without a broadcaster they keep their first weights."""

    def __init__(
        self,
        casting: Casting,
        model_dir: str,
        buffer: "Peer",
        verifiers: "Sequence[Peer]",
        start_timeout_s: float,
        broadcaster: "Peer | None" = None,
        least: int = 1,
    ) -> None:
        self._casting = casting
        self._model_dir = model_dir
        self._buffer = buffer
        self._verifiers = list(verifiers)
        self._start_timeout_s = start_timeout_s
        self._broadcaster = broadcaster
        self._hired = 0
        self._started: set[str] = set()
        self._coming: dict[str, Peer] = {}
        self._leaving: dict[str, Peer] = {}
        self._seats: dict[str, Seat] = {}
        self.workers: dict[str, Peer] = {}
        """Those whose engines are up."""
        self.least = least
        """Fewer are not enough: one that is lost then is replaced, whether or not there is room at the moment."""

    @property
    def coming(self) -> int:
        """How many come up just now."""
        return len(self._coming)

    @property
    def short(self) -> bool:
        """Whether there are too few, those included who come up just now."""
        return len(self.workers) + self.coming < self.least

    async def hire(self, count: int = 1, seat: "Seat | None" = None) -> list[str]:
        """Bring up new workers, engines and all; returns their names. `seat` is where a single one sits."""
        numbers = range(self._hired, self._hired + count)
        self._hired += count
        names = [f"rollout-worker-{number}" for number in numbers]
        pools = [self._pool(number) for number in numbers]
        seats = [seat] if seat else [self._casting.seating.first() for _ in names]
        self._seats |= {name: one for name, one in zip(names, seats, strict=True) if one}
        await asyncio.gather(*map(self._come_up, names, pools))
        return names

    async def recruit(self, core: Ensemble, seat: "Seat | None" = None) -> str:
        """Hire one and bring it into a run that is under way; returns its name.

        Raises:
            Exception: What kept it from coming, when that was not the end of the learning side, which takes in every
                worker when it comes up again.
        """
        (newcomer,) = await self.hire(1, seat)
        async with core.steady:
            try:
                await self.enlist(newcomer)
            except Exception:
                intact = all(standing == "serves" for standing in (await core.standings()).values())
                if intact and newcomer in self.workers:
                    await self.dismiss(newcomer)
                    raise
                # Else it will be taken in, or it is lost itself, and is being replaced as any other.
        return newcomer

    async def let_go(self, name: str) -> None:
        """Let one leave in good order: what it has begun goes on elsewhere, from its last token."""
        self._leaving[name] = worker = self.workers.pop(name)
        for work in (self._no_weights_for(name), within(_DRAIN_S, worker.drain(), f"{name} gives its groups back")):
            (trouble,) = await _outcomes([work])
            if trouble:
                logger.warning("%s leaves in haste: %s", name, trouble)
        self._end(name, worker)
        del self._leaving[name]
        await _outcomes([self.suspend(name)])

    async def share(self, verifiers: "Sequence[Peer]") -> None:
        """From now on the workers use these pools, evenly."""
        self._verifiers = list(verifiers)
        told = [
            within(_TELL_S, worker.use_verifiers(self._pool(number)), f"driver tells {name} its verifier pool")
            for number, (name, worker) in enumerate(self.workers.items())
        ]
        for trouble in await _outcomes(told):
            if trouble:
                logger.warning("a worker keeps its verifier pool for now: %s", trouble)

    async def enlist(self, name: str) -> None:
        """Bring a worker into the run, weights first; it asks for leases when this returns.

        Call it again for a fresh broadcaster: a worker that has begun to ask for leases goes on with that.
        """
        worker = self.workers[name]
        if self._broadcaster:
            await self._broadcaster.join(name, worker)
        if name not in self._started:
            await worker.start()
            self._started.add(name)

    async def enlist_all(self) -> None:
        """Bring everybody into a run that has just come up; who cannot be is left to whoever watches over them."""
        names = list(self.workers)
        for name, trouble in zip(names, await _outcomes(self.enlist(name) for name in names), strict=True):
            if trouble:
                logger.warning("%s could not be brought into the run: %s", name, trouble)

    async def suspend(self, name: str) -> None:
        """Give its groups to others. It may be alive: what it delivers later is refused."""
        await within(_TELL_S, self._buffer.worker_lost(name), f"driver waits for buffer.worker_lost of {name}")

    async def dismiss(self, name: str) -> None:
        """End a worker for good. Safe to call twice."""
        worker = self.workers.pop(name, None)
        if not worker:
            return
        self._end(name, worker)
        for trouble in await _outcomes([self.suspend(name), self._no_weights_for(name)]):
            if trouble:
                logger.warning("the end of %s is not known to everybody yet: %s", name, trouble)

    async def down(self, seconds: float) -> None:
        """Close everyone, or kill who does not answer."""
        await close_all({**self._coming, **self._leaving, **self.workers}, seconds)

    async def _no_weights_for(self, name: str) -> None:
        if self._broadcaster:
            await within(_TELL_S, self._broadcaster.leave(name), f"driver waits for broadcaster.leave of {name}")

    def _pool(self, number: int) -> "Peer":
        return self._verifiers[number % len(self._verifiers)]

    def _end(self, name: str, worker: "Peer") -> None:
        worker.kill()
        if seat := self._seats.pop(name, None):
            seat.free()

    async def _come_up(self, name: str, verifiers: "Peer") -> None:
        worker = self._casting.worker(name, self._model_dir, self._buffer, verifiers, self._seats.get(name))
        self._coming[name] = worker
        try:
            await within(self._start_timeout_s, worker.engine_pids(), f"{name} comes up {START_KEY}")
            self.workers[name] = worker
        except BaseException:
            self._end(name, worker)
            raise
        finally:
            del self._coming[name]


async def _outcomes(work: Iterable[Awaitable[Any]]) -> list[Exception | None]:
    """What each of them raised, if anything."""
    results = await asyncio.gather(*work, return_exceptions=True)
    return [result if isinstance(result, Exception) else None for result in results]


async def close_all(peers: "dict[str, Peer]", seconds: float) -> None:
    """Close actors in good order within `seconds`, then end their processes."""

    async def close(name: str, peer: "Peer") -> None:
        try:
            await within(seconds, peer.call("close"), f"{name} closes")
        except Exception as error:  # it is on its way out: what it says of that goes to the log
            logger.info("%s did not close by itself: %s", name, error)
        peer.kill()

    await asyncio.gather(*(close(name, peer) for name, peer in peers.items()))
