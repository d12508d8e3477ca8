"""Keeps the rollout workers of a run up: one that ends, or falls silent, is replaced, within a budget.

Ray sees a killed process in milliseconds and a stopped one not at all, so workers are asked. The order matters: leases
are freed, a new worker comes up, the broadcaster brings it the current weights and attests them, and only then it
asks for leases.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from actors.waiting import within
from cluster.casting import Casting

if TYPE_CHECKING:
    from actors.ray_app import Peer

logger = logging.getLogger(__name__)

_SILENT_S = 60.0  # a worker that does not answer for so long counts as lost


class Workforce:
    """The rollout workers of a run or an evaluation."""

    def __init__(
        self,
        casting: Casting,
        model_dir: str,
        buffer: "Peer",
        verifiers: "Peer",
        restarts: int,
        start_timeout_s: float,
        look_every_s: float = 0.5,
    ) -> None:
        self._casting = casting
        self._model_dir = model_dir
        self._buffer = buffer
        self._verifiers = verifiers
        self._restarts = restarts
        self._start_timeout_s = start_timeout_s
        self._look_every_s = look_every_s
        self._broadcaster: Peer | None = None
        self._hired = 0
        self.workers: dict[str, Peer] = {}
        self.note = ""
        """The last replacement, for people."""

    async def up(self, count: int) -> None:
        """Bring up the first workers, engines and all."""
        hired = [self._hire() for _ in range(count)]
        await asyncio.gather(*(self._engine_of(name) for name in hired))

    async def start(self, broadcaster: "Peer | None" = None) -> None:
        """Let them ask for leases. From now on replacements join `broadcaster`, where there is one."""
        self._broadcaster = broadcaster
        if broadcaster:
            for name, worker in self.workers.items():
                await broadcaster.join(name, worker)
        await asyncio.gather(*(worker.start() for worker in self.workers.values()))

    async def watch(self) -> str:
        """Replace workers that end. Returns, with the reason, when the budget is spent."""
        while True:
            for name, worker in list(self.workers.items()):
                try:
                    await within(_SILENT_S, worker.health(), f"driver waits for {name}")
                except Exception as error:  # whatever it is, it is this worker's end
                    reason = f"{name}: {type(error).__name__}: {error}"
                    if not self._restarts:
                        return reason
                    self._restarts -= 1
                    try:
                        await self._replace(name, reason)
                    except Exception as trouble:  # a worker that cannot be replaced is the end of the run too
                        return f"{reason}; its successor failed: {type(trouble).__name__}: {trouble}"
            await asyncio.sleep(self._look_every_s)

    async def down(self, seconds: float) -> None:
        """Close everyone, or kill who does not answer."""
        await close_all(self.workers, seconds)

    def _hire(self) -> str:
        name = f"rollout-worker-{self._hired}"
        self._hired += 1
        self.workers[name] = self._casting.worker(name, self._model_dir, self._buffer, self._verifiers)
        return name

    async def _engine_of(self, name: str) -> Any:
        return await within(self._start_timeout_s, self.workers[name].engine_pids(), f"{name} comes up")

    async def _replace(self, name: str, reason: str) -> None:
        logger.warning("a rollout worker is replaced, %d replacements left: %s", self._restarts, reason)
        self.note = f"replaced {name} ({reason.splitlines()[0][:100]})"
        self.workers.pop(name).kill()
        await self._buffer.worker_lost(name)
        if self._broadcaster:
            await self._broadcaster.leave(name)
        successor = self._hire()
        await self._engine_of(successor)
        if self._broadcaster:
            await self._broadcaster.join(successor, self.workers[successor])
        await self.workers[successor].start()


async def close_all(peers: "dict[str, Peer]", seconds: float) -> None:
    """Close actors in good order within `seconds`, then end their processes."""

    async def close(name: str, peer: "Peer") -> None:
        try:
            await within(seconds, peer.call("close"), f"{name} closes")
        except Exception as error:  # it is on its way out: what it says of that goes to the log
            logger.info("%s did not close by itself: %s", name, error)
        peer.kill()

    await asyncio.gather(*(close(name, peer) for name, peer in peers.items()))
