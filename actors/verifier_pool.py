"""The verifier pool: scores answers in processes that can be killed. Never touches a GPU, never calls an engine."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence

from actors.records import Late, Unscored
from verifiers.nursery import VerifierUnavailable
from verifiers.pool import VerifierProcesses
from verifiers.records import ScoreRequest, Verdict
from verifiers.spec import VerifierSpec

PATIENCE_S = 0.5
"""Seconds that a call waits for the slowest of its answers."""
LATE_S = 5.0
"""Seconds that a call waits for one that takes long; a deadline of minutes (a judge, a full queue) takes several."""
_UNCLAIMED = 1_000  # late verdicts that are kept though nobody has come for them: a worker that asked may be dead


class VerifierPool:
    """The verifiers of a run, by the names that problems use, over `processes` places."""

    def __init__(self, specs: Mapping[str, VerifierSpec], processes: int) -> None:
        self._specs = specs
        self._processes = VerifierProcesses(processes)
        self._late: dict[int, asyncio.Future[Verdict]] = {}

    async def start(self) -> list[int]:
        """Load the verifiers; returns the ids of the processes. Raises `VerifierUnavailable`."""
        await self._processes.start(list(dict.fromkeys(self._specs.values())))
        return self._processes.pids()

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Verdict | Late | Unscored]:
        """A verdict per request, in order; a killed or broken process yields `timeout` or `error`, never a reward.

        An answer that takes longer than `PATIENCE_S` holds up none of the others: it gets a ticket for `late`. Nor
        does one whose verifier cannot be had: it is `Unscored`.
        """
        verdicts = [self._begin(request) for request in requests]
        try:
            await asyncio.wait(verdicts, timeout=PATIENCE_S)
        except asyncio.CancelledError:
            for verdict in verdicts:
                verdict.cancel()
            raise
        return [self._answer(verdict) if verdict.done() else self._ticket(verdict) for verdict in verdicts]

    async def late(self, ticket: int) -> Verdict | Late | None:
        """The verdict behind a ticket, or the ticket again after `LATE_S`; None for one of a pool that was replaced.

        Raises:
            VerifierUnavailable: The verifier cannot be had.
        """
        if ticket not in self._late:
            return None
        await asyncio.wait({self._late[ticket]}, timeout=LATE_S)
        return self._late.pop(ticket).result() if self._late[ticket].done() else Late(ticket)

    def _begin(self, request: ScoreRequest) -> "asyncio.Future[Verdict]":
        if spec := self._specs.get(request.verifier):
            return self._processes.submit(spec, [request])[0]
        why = f"no verifier {request.verifier!r} in this run; name it under verifier.others"
        unknown: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        unknown.set_result(Verdict(None, "error", request.verifier, "unknown", feedback=why))
        return unknown

    @staticmethod
    def _answer(verdict: "asyncio.Future[Verdict]") -> Verdict | Unscored:
        try:
            return verdict.result()
        except VerifierUnavailable as error:
            return Unscored(str(error))

    def _ticket(self, verdict: "asyncio.Future[Verdict]") -> Late:
        unclaimed = [ticket for ticket, known in self._late.items() if known.done()]
        for ticket in unclaimed[:-_UNCLAIMED]:
            del self._late[ticket]
        ticket = secrets.randbits(63)  # no other pool's, before or after this one
        self._late[ticket] = verdict
        return Late(ticket)

    async def close(self) -> None:
        """Kill the processes. Safe to call twice."""
        await self._processes.close()
