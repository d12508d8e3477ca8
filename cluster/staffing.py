"""How many rollout workers and verifier pools a run has: as many as it may, as the cluster has room, or as it is told.

A worker that is missing is asked for as a seat: a reservation that Ray grants as soon as a node has room for it, and
that its autoscaler sees until then. Nothing here ends a run: who cannot be had now is asked for again later.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from cluster.ensemble import Ensemble
from cluster.pools import Pools
from cluster.seating import Seat
from cluster.workforce import Workforce

if TYPE_CHECKING:
    from cluster.config import RunConfig

logger = logging.getLogger(__name__)

ROLES = ("rollout", "verifiers")
_AT_ONCE = 8  # seats asked for at a time
_RETRY_S = 15.0  # after somebody could not be brought into the run
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many there are at least and at most, of each role."""

    least: Mapping[str, int]
    most: Mapping[str, int]


def bounds_of(config: "RunConfig") -> Bounds:
    """As the configuration says."""
    workers, pools = config.actors.rollout_workers, config.verifier.pools
    most = {"rollout": config.actors.max_rollout_workers or workers, "verifiers": config.verifier.max_pools or pools}
    return Bounds({"rollout": workers, "verifiers": pools}, most)


class Staffing:
    """Brings workers and pools into a run, and lets them go.

    Args:
        workforce: The rollout workers.
        pools: The verifier pools.
        core: The learning side, which nobody joins while it comes up.
        bounds: How many there may be.
        ask_for_seat: Asks the cluster for room for one more worker; None when there can be no more.
        count_nodes: Nodes of the cluster: pools follow them, one on each.
        asked: What people have told the run since it started, by role.
        doomed: Workers on nodes that are about to go.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        workforce: Workforce,
        pools: Pools,
        core: Ensemble,
        bounds: Bounds,
        ask_for_seat: Callable[[], Seat | None],
        count_nodes: Callable[[], int],
        asked: Callable[[], Mapping[str, int]],
        doomed: Callable[[], Collection[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workforce = workforce
        self._pools = pools
        self._core = core
        self._bounds = bounds
        self._ask_for_seat = ask_for_seat
        self._count_nodes = count_nodes
        self._asked = asked
        self._doomed = doomed
        self._clock = clock
        self._seats: list[Seat] = []
        self._changes: dict[str, asyncio.Task[None]] = {}
        self._not_before = float("-inf")
        self.wanted: dict[str, int] = {}
        """Who would be, if there were room: as of the last look."""
        self.note = ""
        """Why the last change did not come about, for people."""

    @property
    def now(self) -> dict[str, int]:
        """Who is there."""
        return {"rollout": len(self._workforce.workers), "verifiers": len(self._pools.ensembles)}

    async def run(self) -> None:
        """Keep at it until cancelled."""
        try:
            while True:
                try:
                    self.look()
                except Exception:  # it is no reason to end a run
                    logger.exception("the number of workers stays as it is")
                await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            for task in self._changes.values():
                task.cancel()
            for seat in self._seats:
                seat.free()

    def look(self) -> None:
        """Begin what brings the numbers nearer to what is wanted."""
        self._changes = {name: task for name, task in self._changes.items() if not task.done()}
        self.wanted = wanted = self._reckon()
        self._workforce.least = min(self._bounds.least["rollout"], wanted["rollout"])
        self._look_at_workers(wanted["rollout"])
        self._look_at_pools(wanted["verifiers"])

    def _reckon(self) -> dict[str, int]:
        least, most = self._bounds.least["verifiers"], self._bounds.most["verifiers"]
        pools = min(most, max(least, self._count_nodes())) if most > least else most
        return {"rollout": self._bounds.most["rollout"], "verifiers": pools} | dict(self._asked())

    def _look_at_workers(self, wanted: int) -> None:
        workers = list(self._workforce.workers)
        for name in {*workers[wanted:], *self._doomed()}:  # the newest go first
            self._begin(name, partial(self._let_go, name))
        missing = wanted - len(workers) - self._workforce.coming
        if self._clock() < self._not_before:
            missing = 0
        while len(self._seats) > max(missing, 0):
            self._seats.pop().free()
        while len(self._seats) < min(missing, _AT_ONCE) and (seat := self._ask_for_seat()):
            self._seats.append(seat)
        for seat in [seat for seat in self._seats if seat.granted()]:
            self._seats.remove(seat)
            self._begin(f"seat {id(seat)}", partial(self._take_in, seat))

    def _look_at_pools(self, wanted: int) -> None:
        there = len(self._pools.ensembles)
        if there < wanted and self._clock() >= self._not_before:
            self._begin("verifiers", self._open_pool)
        elif there > wanted:
            self._begin("verifiers", self._close_pool)

    def _begin(self, what: str, change: Callable[[], Awaitable[None]]) -> None:
        """One change of a kind at a time; one that fails is told, and tried again later."""
        if what not in self._changes:
            self._changes[what] = asyncio.ensure_future(self._guarded(what, change))

    async def _guarded(self, what: str, change: Callable[[], Awaitable[None]]) -> None:
        try:
            await change()
            self.note = ""
        except Exception as error:
            self._not_before = self._clock() + _RETRY_S
            self.note = f"nobody could join or leave ({type(error).__name__}: {error}); tried again in {_RETRY_S:g} s"
            logger.warning("%s: %s", what, self.note)

    async def _take_in(self, seat: Seat) -> None:
        name = await self._workforce.recruit(self._core, seat)
        logger.info("%s has joined", name)

    async def _let_go(self, name: str) -> None:
        await self._workforce.let_go(name)
        logger.info("%s has left", name)

    async def _open_pool(self) -> None:
        name = await self._pools.open()
        await self._workforce.share(self._pools.peers)
        logger.info("%s has joined", name)

    async def _close_pool(self) -> None:
        await self._workforce.share(self._pools.peers[:-1])
        name = await self._pools.close()
        logger.info("%s has left", name)
