"""The rollout worker: one engine, and a loop that asks the buffer for leases when it has room.

Consumes: leases. Produces: finished groups. Waits for: the engine and the verifier pool; never for the learner.
It does not decide what to generate, so workers come and go freely. One boundary turns a failed verifier call into
a verdict with status `error`; everything else flies and ends the worker.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from actors.protocols import Buffer, Verifiers
from actors.waiting import PeerLost, within
from rollout.engine import Engine, EngineDead
from rollout.records import FloatArray, GenerationRequest, GroupKey, IntArray, Lease, Segment
from rollout.seeds import sample_seed
from rollout.weights import WeightSlot
from rollout.workflows import Workflow, single_turn
from verifiers.pool import VerifierUnavailable
from verifiers.records import ScoreRequest, Verdict

logger = logging.getLogger(__name__)

_LEASE_WAIT_S = 1.0  # how long one request for work stays open at the buffer


class RolloutWorker:
    """Generates and scores groups with the engine it owns."""

    def __init__(
        self,
        name: str,
        make_engine: Callable[[], Engine],
        make_decoder: Callable[[], Callable[[Sequence[int]], str]],
        buffer: Buffer,
        verifiers: Verifiers,
        max_concurrent: int,
        renew_every_s: float,
        call_timeout_s: float,
        workflow: Workflow = single_turn,
    ) -> None:
        self.name = name
        self._engine = make_engine()
        self._decode = make_decoder()
        self._buffer = buffer
        self._verifiers = verifiers
        self._max_concurrent = max_concurrent
        self._renew_every_s = renew_every_s
        self._call_timeout_s = call_timeout_s
        self._workflow = workflow
        self._groups: dict[GroupKey, asyncio.Task[None]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._tokens = 0
        self._retired = ""

    async def engine_pids(self) -> list[int]:
        """The engine's processes: it is up."""
        return self._engine.pids()

    async def start(self) -> None:
        """Begin to ask for leases."""
        self._loops = [asyncio.create_task(self._pull()), asyncio.create_task(self._renew())]

    async def health(self) -> dict[str, float]:
        """Counters for the metrics; raises what ended the worker, if anything did."""
        if self._retired:
            raise EngineDead(self._retired)
        for loop in self._loops:
            if loop.done():
                loop.result()
        if not self._engine.pids():
            raise EngineDead("the engine process is gone")
        return {"running": float(len(self._groups)), "tokens": float(self._tokens), "version": self._engine.version}

    async def load_weights(self, slot: WeightSlot) -> int:
        """Swap weights under the requests in flight; returns the version that new tokens carry."""
        await self._engine.load_weights(slot)
        return self._engine.version

    async def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        """[L-1] log-probs of each given sequence: what the engine really computes with."""
        return await self._engine.logprobs(sequences)

    async def retire(self, reason: str) -> None:
        """Deliver nothing any more: the engine cannot be trusted. From now on `health` raises the reason."""
        self._retired = reason
        await self._end_tasks()

    async def close(self) -> None:
        """Stop asking, drop what is in flight, shut the engine down. Safe to call twice."""
        await self._end_tasks()
        await self._engine.close()

    async def _end_tasks(self) -> None:
        tasks = [*self._loops, *self._groups.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=10)

    # -- the loop ---------------------------------------------------------------------------------------------

    async def _pull(self) -> None:
        while True:
            room = self._max_concurrent - len(self._groups)
            if room > 0:
                for lease in await self._buffer.lease(self.name, room, _LEASE_WAIT_S):
                    if earlier := self._groups.get(lease.key):  # its lease expired, and came back here
                        earlier.cancel()
                    self._groups[lease.key] = asyncio.create_task(self._serve(lease))
            if self._groups and (room <= 0 or len(self._groups) >= self._max_concurrent):
                await asyncio.wait(
                    self._groups.values(), timeout=self._renew_every_s, return_when=asyncio.FIRST_COMPLETED
                )
            self._reap()

    def _reap(self) -> None:
        for key, task in list(self._groups.items()):
            if task.done():
                del self._groups[key]
                if not task.cancelled():
                    task.result()  # an engine that died ends the worker: nothing can be generated here

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._renew_every_s)
            working = [key for key, task in self._groups.items() if not task.done()]
            for key in await self._buffer.renew(self.name, working):
                task = self._groups.get(key)
                if task and not task.done():  # it may have been delivered while the buffer answered
                    logger.warning("the lease of %s was taken away: its answers are dropped here", key)
                    task.cancel()

    async def _serve(self, lease: Lease) -> None:
        group = await self._workflow(lease, _LeaseContext(self, lease))
        if not await self._buffer.finish(self.name, group):
            logger.warning("the buffer refused %s: delivered late or twice", lease.key)

    # -- what a workflow asks for -----------------------------------------------------------------------------

    async def generate(self, lease: Lease, key: str, sample_index: int, prompt_ids: IntArray) -> Segment:
        """One answer, streamed from the engine and joined."""
        identity = f"{lease.key.purpose}/{lease.key.epoch}/{lease.key.prompt_id}/{sample_index}/{key}"
        request = GenerationRequest(
            id=f"{identity}/{lease.attempt}",
            prompt_ids=prompt_ids,
            max_new_tokens=lease.sampling.max_new_tokens,
            temperature=lease.sampling.temperature,
            seed=sample_seed(lease.sampling.seed, lease.key, sample_index),
        )
        pieces: list[Segment] = []
        try:
            async for piece in self._engine.generate(request):
                pieces.append(piece)
                self._tokens += len(piece)
        except asyncio.CancelledError:
            await self._engine.abort(request.id)
            raise
        return Segment.concatenate(pieces)

    async def score(self, lease: Lease, responses: Sequence[Segment]) -> list[Verdict]:
        """Verdicts for decoded answers. The one place where an exception becomes data."""
        requests = [
            ScoreRequest(
                prompt=lease.prompt.text,
                response=self._decode(response.token_ids.tolist()),
                reference=lease.prompt.reference,
                truncated=response.finish_reason == "length",
            )
            for response in responses
        ]
        try:
            return await within(
                self._call_timeout_s,
                self._verifiers.score(requests),
                f"{self.name} waits for verdicts on {lease.prompt.id}",
            )
        except (PeerLost, VerifierUnavailable):
            raise  # nothing can be scored any more: that is the run's end, not a property of this answer
        except Exception as error:  # the boundary: a bad rollout is data, not a crash
            logger.warning("scoring %s failed: %s", lease.prompt.id, error)
            verdict = Verdict(None, "error", "pool", "0", feedback=f"{type(error).__name__}: {error}")
            return [verdict] * len(responses)


class _LeaseContext:
    """A workflow's view of the worker, for one lease."""

    def __init__(self, worker: RolloutWorker, lease: Lease) -> None:
        self._worker = worker
        self._lease = lease

    async def generate(self, key: str, sample_index: int, prompt_ids: IntArray) -> Segment:
        return await self._worker.generate(self._lease, key, sample_index, prompt_ids)

    async def score(self, responses: Sequence[Segment]) -> list[Verdict]:
        return await self._worker.score(self._lease, responses)
