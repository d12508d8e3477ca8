"""Actors that only make sense together: when one of them is lost, the others begin again with it.

The learning side (buffer, ranks, broadcaster, controller) is one such ensemble: what its actors hold cannot be mended
in place, but all of it follows from manifest and journal. So there is one way up, at the first start and at every
later one: fresh processes, connected in order, and a run that takes itself up where its files say. The buffer lasts,
unless it is the one that is lost: engines go on generating for it meanwhile. The verifier pool is one too, of one
actor.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, Literal

from actors.pulse import Pulse
from actors.waiting import DeadlineExceeded, PeerAway, PeerLost, within

if TYPE_CHECKING:
    from actors.ray_app import Peer

logger = logging.getLogger(__name__)

_ASK_AGAIN_S = 0.2
START_KEY = "(actors.start_timeout_s)"
"""Said where a wait for somebody's start is given up."""
_PATIENCE_S = 10.0  # what was sent to a process that ended may never be answered: then it is asked again

Standing = Literal["serves", "gone", "silent"]


class Ensemble:
    """Peers, the way to bring them up, and their run, if they have one.

    Args:
        peers: The actors by name; they come back under the same peers.
        bring_up: Connects freshly constructed actors with one another and with the rest.
        run: What they do once they are up; ends with its result.
        start_timeout_s: How long constructing them may take.
        lasting: Names of those who go on through a restart of the others.
        answer_s: How long an actor has to show that it is the one that was brought up.
    """

    def __init__(
        self,
        peers: "dict[str, Peer]",
        bring_up: Callable[[], Awaitable[None]],
        start_timeout_s: float,
        run: Callable[[], Awaitable[Any]] | None = None,
        lasting: Collection[str] = (),
        answer_s: float = 5.0,
    ) -> None:
        self.peers = peers
        self.steady = asyncio.Lock()
        """Held while the ensemble comes up: nobody joins it meanwhile."""
        self.run: asyncio.Future[Any] | None = None
        """The run since the ensemble was last brought up."""
        self._bring_up = bring_up
        self._begin = run
        self._start_timeout_s = start_timeout_s
        self._lasting = frozenset(lasting)
        self._answer_s = answer_s
        self._serving: dict[str, Pulse] = {}

    async def start(self) -> None:
        """Bring it up and let it run.

        Raises:
            DeadlineExceeded: When somebody does not come up in time.
            PeerLost: When somebody dies meanwhile.
        """
        await self._start(list(self.peers))

    async def restart(self, everybody: bool) -> None:
        """End those who served and bring the ensemble up again; raises what `start` raises.

        Those who are to last and do serve go on, unless it is `everybody`.
        """
        self.leave_run()
        afresh = []
        for name, standing in (await self.standings()).items():
            if standing == "serves" and name in self._lasting and not everybody:
                continue
            afresh.append(name)
            if standing != "gone":  # in the place of who is gone there is somebody fresh, or soon will be
                self.peers[name].restart()
        await self._start(afresh)

    async def _start(self, afresh: Collection[str]) -> None:
        async with self.steady:
            # Who serves is noted before anything is asked of them: whoever takes their place later is then known.
            pulses = await asyncio.gather(
                *(successor(name, self.peers[name], self._serving.get(name), self._start_timeout_s) for name in afresh)
            )
            self._serving |= dict(zip(afresh, pulses, strict=True))
            await self._bring_up()
            for name in self.peers.keys() - set(afresh):  # who died meanwhile has been replaced, and is as good
                self._serving[name] = await successor(name, self.peers[name], None, self._start_timeout_s)
            if self._begin:
                self.run = asyncio.ensure_future(self._begin())

    async def standings(self) -> dict[str, Standing]:
        """For each actor: whether the process that was brought up serves, is gone or does not answer."""
        found = await asyncio.gather(*(self._standing(name) for name in self.peers))
        return dict(zip(self.peers, found, strict=True))

    def serves(self, pulse: Pulse) -> bool:
        """Whether this is the process that was brought up under its name."""
        known = self._serving.get(pulse.name)
        return known is None or same_process(known, pulse)

    def leave_run(self) -> None:
        """Wait for the run no longer: how it ends is nobody's matter."""
        if self.run:
            self.run.cancel()
            self.run.add_done_callback(lambda run: run.cancelled() or run.exception())

    async def _standing(self, name: str) -> Standing:
        asked = self.peers[name].call("pulse")
        try:
            pulse: Pulse = await within(self._answer_s, asked, f"driver waits for the pulse of {name}")
        except PeerLost:
            return "gone"
        except DeadlineExceeded:
            return "silent"
        if not self.serves(pulse):
            return "gone"
        return "serves" if pulse.blocked_s < self._answer_s else "silent"


async def successor(name: str, peer: "Peer", before: Pulse | None, seconds: float) -> Pulse:
    """The pulse of the process that comes after `before`, once it is up.

    Raises:
        DeadlineExceeded: After `seconds`.
        PeerLost: When nobody comes: the constructor failed.
    """

    async def ask() -> Pulse:
        while True:
            try:
                pulse: Pulse = await within(_PATIENCE_S, peer.call("pulse"), f"driver waits for a pulse of {name}")
                if before is None or not same_process(before, pulse):
                    return pulse
            except (PeerAway, DeadlineExceeded):
                pass  # it is on its way
            await asyncio.sleep(_ASK_AGAIN_S)

    return await within(seconds, ask(), f"{name} comes up {START_KEY}")


def same_process(one: Pulse, other: Pulse) -> bool:
    """Whether two pulses are of one process."""
    return (one.node_id, one.process_id, one.born) == (other.node_id, other.process_id, other.born)
