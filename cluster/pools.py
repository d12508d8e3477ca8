"""The verifier pools of a run: they come and go with the nodes of the cluster; the rollout workers share them out."""

import logging
from functools import partial
from typing import TYPE_CHECKING

from cluster.casting import Casting
from cluster.ensemble import Ensemble
from cluster.workforce import close_all

if TYPE_CHECKING:
    from actors.ray_app import Peer

logger = logging.getLogger(__name__)

_CLOSE_S = 5.0


class Pools:
    """Each pool is an ensemble of one: whoever watches over the run starts it again in place."""

    def __init__(self, casting: Casting, start_timeout_s: float) -> None:
        self._casting = casting
        self._start_timeout_s = start_timeout_s
        self._opened = 0
        self.ensembles: dict[str, Ensemble] = {}
        """Those that serve, by name."""

    @property
    def peers(self) -> "list[Peer]":
        """Those that serve, oldest first."""
        return [ensemble.peers[name] for name, ensemble in self.ensembles.items()]

    async def open(self) -> str:
        """Bring one more up, verifiers and all; returns its name.

        Raises:
            Exception: What a verifier that cannot be loaded says.
        """
        number, self._opened = self._opened, self._opened + 1
        name, peer = self._casting.verifier_pool(number)
        ensemble = Ensemble({name: peer}, partial(peer.call, "start"), self._start_timeout_s)
        try:
            await ensemble.start()
        except BaseException:
            peer.kill()
            raise
        self.ensembles[name] = ensemble
        return name

    async def close(self) -> str:
        """End the newest, which nobody is told to use any more; returns its name.

        An answer that is still with it is asked for again at another.
        """
        name, pool = self.ensembles.popitem()
        await close_all(pool.peers, _CLOSE_S)
        return name

    async def down(self, seconds: float) -> None:
        """Close all."""
        await close_all({name: pool.peers[name] for name, pool in self.ensembles.items()}, seconds)
