"""The verifier pool: scores answers in processes that can be killed. Never touches a GPU, never calls an engine."""

from collections.abc import Sequence

from verifiers.pool import VerifierProcesses
from verifiers.records import ScoreRequest, Verdict


class VerifierPool:
    """One verifier, `processes` processes, `timeout_s` seconds per answer."""

    def __init__(self, verifier: str, processes: int, timeout_s: float) -> None:
        self._verifier = verifier
        self._timeout_s = timeout_s
        self._processes = VerifierProcesses(processes)

    async def start(self) -> list[int]:
        """Start the processes; returns their ids."""
        await self._processes.start()
        return self._processes.pids()

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Verdict]:
        """A verdict per request, in order; a killed or broken process yields `timeout` or `error`, never a reward."""
        return await self._processes.score(self._verifier, list(requests), self._timeout_s)

    async def close(self) -> None:
        """Kill the processes. Safe to call twice."""
        await self._processes.close()
