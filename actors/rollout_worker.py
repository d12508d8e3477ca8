"""The rollout worker: one engine, and loops that ask the buffer for leases, report progress and obey interruptions.

    loop      consumes                   waits for          unblocked by
    pull      leases                     buffer             room in the engine, work in the buffer
    groups    tokens, verdicts           engine, verifiers  finished answers
    report    tokens not yet reported    buffer             time
    obey      groups to interrupt        buffer             a round that has all it needs

It does not decide what to generate, so workers come and go freely, and it survives the buffer: when that is lost, what
runs is dropped (its reported tokens are in the journal) and the worker asks again until a new buffer answers.
"""

import asyncio
import gc
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from actors.changes import Changes
from actors.protocols import Buffer, Verifiers
from actors.running_group import RunningGroup, request_of
from actors.scoring import Scoring
from actors.waiting import DeadlineExceeded, PeerLost, within
from rollout.answer_log import AnswerLog
from rollout.engine import Engine, EngineDead, WeightsDisagree, WeightsMissing
from rollout.event_log import JournalBroken
from rollout.records import (
    FloatArray,
    GroupKey,
    GroupProgress,
    IntArray,
    Lease,
    RolloutGroup,
    Segment,
)
from rollout.weights import WeightSlot
from rollout.workflows import Workflow, single_turn
from verifiers.records import ScoreRequest, Verdict

logger = logging.getLogger(__name__)
T = TypeVar("T")

_ASK_S = 1.0  # how long one request for work (or for interruptions) stays open at the buffer
_PAUSE_S = 0.02  # between requests that the buffer answers at once, with nothing new to say
_RETRY_S = 0.5  # after the buffer was lost


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
        report_every_s: float,
        call_timeout_s: float,
        buffer_patience_s: float,
        workflow: Workflow = single_turn,
    ) -> None:
        self.name = name
        self._engine = make_engine()
        self._decode = make_decoder()
        self._buffer = buffer
        self._scoring = Scoring(name, verifiers, call_timeout_s)
        self._call_timeout_s = call_timeout_s
        self._attest_s = 3 * call_timeout_s  # a probe, perhaps another, and the word that all is well
        self._max_concurrent = max_concurrent
        self._report_every_s = report_every_s
        self._buffer_patience_s = buffer_patience_s
        self._workflow = workflow
        self._groups: dict[GroupKey, RunningGroup] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._lost_since: float | None = None
        self._dropped: list[GroupProgress] = []
        """Leases that were dropped here while the buffer could not be told."""
        self._attested = self._brought = self._engine.version
        self._attestations = Changes()
        self._room = Changes()
        self._tokens = 0
        self._doubted = asyncio.Event()
        self._retired = ""
        self._leaving = False

    async def engine_pids(self) -> list[int]:
        """The engine's processes: it is up."""
        return self._engine.pids()

    async def start(self) -> None:
        """Begin to ask for leases."""
        gc.collect()
        gc.freeze()  # the engine's modules stay: a collection that walks them all stops every stream for 0.1 s
        self._loops = [asyncio.create_task(loop()) for loop in (self._pull, self._report, self._obey)]

    async def health(self) -> dict[str, float]:
        """Counters for the metrics; raises what ended the worker, if anything did."""
        if self._retired:
            raise EngineDead(self._retired)
        for loop in self._loops:
            if loop.done() and (error := loop.exception()):
                raise EngineDead(f"the worker ended: {type(error).__name__}: {error}") from error
        if not self._engine.pids():
            raise EngineDead("the engine process is gone")
        return {
            "running": float(len(self._groups)),
            "requests": float(sum(len(running.requests) for running in self._groups.values())),
            "tokens": float(self._tokens),
            "slots": float(self._engine.slots),
            "pause_s": self._engine.pause_s,
            "version": float(self._engine.version),
        }

    async def load_weights(self, slot: WeightSlot) -> int:
        """Swap weights under the requests in flight; returns the version that new tokens carry.

        None of these tokens leaves the worker before `attested` says that they are what they are labelled.
        """
        before = self._attested, self._brought
        self._attested, self._brought = min(self._attested, slot.version - 1), slot.version
        try:
            await self._engine.load_weights(slot)
        except (WeightsMissing, WeightsDisagree):  # nothing was touched
            self._attested, self._brought = before
            raise
        return self._engine.version

    async def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        """[L-1] log-probs of each given sequence: what the engine really computes with."""
        return await self._engine.logprobs(sequences)

    async def attested(self, version: int) -> None:
        """The engine was shown to compute with this version: tokens up to it may be reported and delivered.

        That ends a quarantine, whoever began it: a broadcaster may have died over it.
        """
        self._attested = version
        self._doubted.clear()
        self._attestations.notify()

    async def quarantine(self, reason: str) -> None:
        """Take no leases until a version is attested, and void what was sampled under doubt."""
        logger.warning("no leases until a version is attested: %s", reason)
        self._doubted.set()
        await self._give_all_back("quarantined")

    async def forsaken(self) -> None:
        """Whoever brought versions so far is gone: the last one is under doubt, unless it was attested."""
        if self._brought > self._attested:
            await self.quarantine(f"version {self._brought} was brought and never attested")
        else:
            self._doubted.clear()  # wrong bytes that it did not take were all that was held against it

    async def retire(self, reason: str) -> None:
        """Deliver nothing any more: the engine cannot be trusted. From now on `health` raises the reason."""
        self._retired = reason
        await self._end_tasks()

    async def drain(self) -> None:
        """Take no more leases, and give back those there are with every token: the worker is about to leave."""
        self._leaving = True
        await self._give_all_back("leaving")
        delivering = [running.task for running in self._groups.values() if running.task and not running.task.done()]
        if delivering:
            await asyncio.wait(delivering)

    async def use_verifiers(self, verifiers: Verifiers) -> None:
        """Have answers scored by another pool from now on."""
        self._scoring.use(verifiers)

    async def close(self) -> None:
        """Stop asking, drop what is in flight, shut the engine down. Safe to call twice."""
        await self._end_tasks()
        await self._scoring.close()
        await self._engine.close()

    async def _end_tasks(self) -> None:
        tasks = [*self._loops, *(running.task for running in self._groups.values() if running.task)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=10)

    # -- the loops --------------------------------------------------------------------------------------------

    async def _pull(self) -> None:
        while True:
            self._reap()
            room = self._max_concurrent - sum(running.generates for running in self._groups.values())
            if self._takes_no_leases():
                await asyncio.sleep(_PAUSE_S)
            elif room > 0:
                leases = await self._ask(self._buffer.lease(self.name, self._attested, room, _ASK_S))
                if leases and (reason := self._takes_no_leases()):  # since the buffer was asked
                    unused = [GroupProgress(lease.key, lease.attempt) for lease in leases]
                    await self._ask(self._buffer.give_back(self.name, unused, reason))
                    continue
                for lease in leases or ():
                    self._begin(lease)
                if not leases:
                    await asyncio.sleep(_PAUSE_S)
            else:
                await self._room.wait(_ASK_S)

    def _takes_no_leases(self) -> str:
        """Why not; empty when it does."""
        return "leaving" if self._leaving else "quarantined" if self._doubted.is_set() else ""

    def _begin(self, lease: Lease) -> None:
        if (earlier := self._groups.get(lease.key)) and earlier.task:  # its lease expired, and came back here
            earlier.task.cancel()
        running = self._groups[lease.key] = RunningGroup(lease, AnswerLog(lease.pieces))
        running.task = asyncio.create_task(self._serve(running))
        running.task.add_done_callback(lambda _: self._room.notify())

    def _reap(self) -> None:
        for key, running in list(self._groups.items()):
            if running.task and running.task.done():
                del self._groups[key]
                if not running.task.cancelled():
                    running.task.result()  # an engine that died ends the worker: nothing can be generated here

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(self._report_every_s)
            reports = {
                running.lease.key: (running, running.report(self._attested))
                for running in self._groups.values()
                if not (running.delivered or running.interrupted or (running.task and running.task.done()))
            }
            gone = await self._ask(self._buffer.report(self.name, [report for _, report in reports.values()]))
            if gone is None:
                continue  # nothing is acknowledged: the next report says it again
            for key, (running, report) in reports.items():
                if key not in gone:
                    running.log.acknowledge(report.pieces)
                elif running.task and not running.task.done() and not running.delivered:
                    logger.warning("the lease of %s was taken away: its answers are dropped here", key)
                    running.task.cancel()

    async def _obey(self) -> None:
        while True:
            keys = await self._ask(self._buffer.revoked(self.name, _ASK_S)) or ()
            running = [self._groups[key] for key in keys if key in self._groups]
            await asyncio.gather(*(self._interrupt(r, "interrupted") for r in running if r.task and not r.delivered))
            if keys:
                await asyncio.sleep(_PAUSE_S)  # those that are being delivered are named until they are in

    async def _give_all_back(self, reason: str) -> None:
        running = [r for r in self._groups.values() if r.task and not r.task.done() and not r.delivered]
        await asyncio.gather(*(self._interrupt(r, reason) for r in running))

    async def _interrupt(self, running: RunningGroup, reason: str) -> None:
        """End the group's requests, give it back with every token of attested versions."""
        assert running.task
        running.interrupted = True
        for request in list(running.requests):
            await self._engine.abort(request)
        if running.requests:
            what = f"{self.name} waits for its engine to end {running.lease.key}"  # which may be taking weights
            await within(self._call_timeout_s, running.idle.wait(), what)
        if running.delivered:
            return
        running.task.cancel()
        await asyncio.wait([running.task])
        await self._ask(self._buffer.give_back(self.name, [running.report(self._attested)], reason))

    async def _ask(self, call: Awaitable[T]) -> T | None:
        """The buffer's answer; None when it gave none.

        A buffer that is lost, or whose journal broke, is being replaced, and knows nothing of what runs here: it is
        dropped. One that was only out of reach gets it back as soon as it answers.

        Raises:
            PeerLost, JournalBroken: No buffer that works came back in time.
        """
        clock = asyncio.get_running_loop().time
        try:
            answer = await call
        except DeadlineExceeded as error:
            logger.warning("%s", error)
            return None
        except (PeerLost, JournalBroken) as error:
            self._lost_since = self._lost_since or clock()
            if clock() - self._lost_since > self._buffer_patience_s:
                raise
            logger.warning("the buffer is gone, asked again in %g s: %s", _RETRY_S, error)
            for running in self._groups.values():
                if running.task and not running.task.done() and not running.delivered:
                    self._dropped.append(running.report(self._attested))
                    running.task.cancel()
            await asyncio.sleep(_RETRY_S)
            return None
        self._lost_since = None
        if self._dropped:
            dropped, self._dropped = self._dropped, []
            await self._ask(self._buffer.give_back(self.name, dropped, "buffer_lost"))
        return answer

    # -- one group --------------------------------------------------------------------------------------------

    async def _serve(self, running: RunningGroup) -> None:
        lease = running.lease
        group = await self._workflow(lease, _LeaseContext(self, running))
        if not await self._attestations.first(lambda: running.log.newest <= self._attested or None, self._attest_s):
            newest = running.log.newest
            logger.warning("version %d was not attested in %g s: %s goes back", newest, self._attest_s, lease.key)
            await self._ask(self._buffer.give_back(self.name, [running.report(self._attested)], "unattested"))
            return
        running.delivered = True
        while (taken := await self._ask(self._deliver(lease, group))) is None and not self._lost_since:
            pass  # it may have arrived: a second delivery of the same lease is refused, which says so
        if taken is False:
            logger.warning("the buffer refused %s: delivered late or twice", lease.key)

    def _deliver(self, lease: Lease, group: RolloutGroup) -> Awaitable[bool]:
        return self._buffer.finish(self.name, lease.attempt, group)

    # -- what a workflow asks for -----------------------------------------------------------------------------

    async def generate(self, running: RunningGroup, call: str, sample_index: int, prompt_ids: IntArray) -> Segment:
        """One answer: what is known of it, and the rest from the engine."""
        lease, log = running.lease, running.log
        known = log.answer(sample_index, call)
        if known.finish_reason is not None:
            return known
        await running.unless_interrupted()
        request = request_of(lease, call, sample_index, prompt_ids, known)
        running.requests.add(request.id)
        running.idle.clear()
        running.began = True
        try:
            async for piece in self._engine.generate(request):
                log.add(sample_index, call, piece)
                self._tokens += len(piece)
        except asyncio.CancelledError:
            await self._engine.abort(request.id)
            raise
        finally:
            running.requests.discard(request.id)
            if not running.requests:
                running.idle.set()
                self._room.notify()
        answer = log.answer(sample_index, call)
        if answer.finish_reason is None:
            await running.unless_interrupted()
            return replace(answer, finish_reason="abort")  # the engine ended it, and nobody asked it to
        return answer

    async def score(self, running: RunningGroup, call: str, sample_index: int, response: Segment) -> Verdict:
        """The verdict on an answer, decoded."""
        if known := running.log.verdict(sample_index, call):
            return known
        prompt = running.lease.prompt
        verdict = await self._scoring.score(
            ScoreRequest(
                prompt=prompt.text,
                response=self._decode(response.token_ids.tolist()),
                reference=prompt.reference,
                truncated=response.finish_reason == "length",
                extras=json.loads(prompt.extras or "{}"),
                verifier=prompt.verifier,
            )
        )
        running.log.judge(sample_index, call, verdict)
        return verdict


class _LeaseContext:
    """A workflow's view of the worker, for one lease."""

    def __init__(self, worker: RolloutWorker, running: RunningGroup) -> None:
        self._worker = worker
        self._running = running

    async def generate(self, call: str, sample_index: int, prompt_ids: IntArray) -> Segment:
        return await self._worker.generate(self._running, call, sample_index, prompt_ids)

    async def score(self, call: str, sample_index: int, response: Segment) -> Verdict:
        return await self._worker.score(self._running, call, sample_index, response)
