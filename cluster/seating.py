"""Who sits where: the reservations of a run, made in the order of its plan so that Ray finds places for all.

Learner ranks, and engines on GPUs, have reserved places from the start; engines on CPUs are spread by Ray. Who joins
later has a reservation, which Ray's autoscaler sees until it is granted.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Protocol

from cluster.placement import ENGINE, PAIR, RANK, Crew
from cluster.plural import plural

_LOOK_EVERY_S = 0.2


class Seat(Protocol):
    """Room for one worker, asked for; `actors.ray_app.Reservation` is one."""

    group: Any
    """The reservation, as Ray knows it."""
    bundle: int
    """Which part of it."""

    def granted(self) -> bool:
        """Whether it is there."""
        ...

    def free(self) -> None:
        """Give it back, or ask for it no longer."""
        ...


class Seating:
    """The places of learner ranks and rollout workers.

    Args:
        crews: Who needs room, those first who take most of a node.
        ray_app: Reserves.
        patience_s: How long it may take until a reservation is granted for which there is room on paper.
    """

    def __init__(self, crews: Sequence[Crew], ray_app: Any, patience_s: float) -> None:
        self._crews = {crew.role: crew for crew in crews}
        self._ray_app = ray_app
        self._patience_s = patience_s
        self._vacant: list[Seat] = []
        self.ranks: Any = None
        """The reservation of the learner ranks, once it is made: rank i is in bundle i."""

    @property
    def colocated(self) -> bool:
        """Whether every rollout worker sits beside a learner rank, in the same bundle."""
        return PAIR in self._crews

    def takes(self, role: str) -> tuple[float, float]:
        """CPUs and GPUs of one actor."""
        crew, share = (self._crews[PAIR], 2) if self.colocated else (self._crews[role], 1)
        return crew.cpus / share, crew.gpus / share

    async def reserve(self) -> None:
        """Ask for the places that must be there from the start, one crew after the other, and wait for them.

        Raises:
            RuntimeError: When a crew does not get its places in time: others were faster.
        """
        for crew in self._crews.values():
            if crew.role in (RANK, PAIR) and crew.count:
                (together,) = await self._granted(crew, [self._ask(crew, crew.count)])
                self.ranks = together.group
                if crew.role == PAIR:
                    self._vacant += [_Beside(self.ranks, bundle, self._vacant) for bundle in range(crew.count)]
            elif crew.role == ENGINE and crew.gpus:
                self._vacant += await self._granted(crew, [self._ask(crew) for _ in range(crew.count)])

    def first(self) -> Seat | None:
        """The place of the next worker among the first ones, or of one that replaces another; None: Ray chooses.

        Raises:
            RuntimeError: When there is a worker beside every learner rank.
        """
        if self._vacant:
            return self._vacant.pop(0)
        if self.colocated:
            raise RuntimeError("no learner rank is left without a rollout worker (cluster.layout=colocated)")
        return self.further() if self._crews[ENGINE].gpus else None

    def further(self) -> Seat | None:
        """Room for one more worker, asked for; None where there can be no more."""
        if self.colocated:
            return self._vacant.pop(0) if self._vacant else None
        return self._ask(self._crews[ENGINE])

    def _ask(self, crew: Crew, count: int = 1) -> Seat:
        return self._ray_app.Reservation(crew.cpus, crew.gpus, count)  # type: ignore[no-any-return]

    async def _granted(self, crew: Crew, seats: list[Seat]) -> list[Seat]:
        deadline = time.monotonic() + self._patience_s
        while not all(seat.granted() for seat in seats):
            if time.monotonic() > deadline:
                for seat in seats:
                    seat.free()
                raise RuntimeError(
                    f"no room for {plural(crew.count, crew.role)} within actors.start_timeout_s={self._patience_s:g}: "
                    f"each takes {crew.takes} of one node, and others were faster; lower {crew.fewer}, or add nodes"
                )
            await asyncio.sleep(_LOOK_EVERY_S)
        return seats


class _Beside:
    """A rollout worker's place beside a learner rank; it is there as long as the rank's is."""

    def __init__(self, group: Any, bundle: int, vacant: list[Seat]) -> None:
        self.group = group
        self.bundle = bundle
        self._vacant = vacant

    def granted(self) -> bool:
        """Ranks and workers were granted their places together."""
        return True

    def free(self) -> None:
        """Another worker may sit here. Safe to call twice."""
        if self not in self._vacant:
            self._vacant.append(self)
