"""Scoring processes that can be killed: each answer has a deadline, and nothing it does reaches another answer.

Plain asyncio, no Ray.

    consumes    answers to score, in a queue per verifier in which problems take turns
    produces    verdicts
    waits for   a place for a process; a template to fork it; a verdict, until its deadline
    unblocked   by verdicts and by deadlines

A fault is a verdict (`timeout`, `error`); only a verifier that cannot be loaded, or processes that cannot be started,
raise. As many answers are worked at as there are places. One that waits for something outside gives its place away at
once; one that computes for long (`slow_s`) gives it away too, and goes on in what the others leave of the machine. So
answers that hang cost their own deadline, and of the others' time `slow_s` at most.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from verifiers.fair_queue import FairQueue
from verifiers.nursery import NobodyWaits, Nursery, ProcessDied, ScoringProcess, VerifierUnavailable
from verifiers.records import ScoreRequest, Verdict
from verifiers.spec import VerifierSpec

logger = logging.getLogger(__name__)

_CHUNK = 64  # answers handed to a process at once, at most: enough to hide the round trip
_TRIES = 2  # processes that may die over an answer
_MOST_BONUS = 2  # deadlines that a starved answer may get on top of its own: every wait has an end
_LEAST_BONUS_S = 0.02
_LOOK_S, _LOOKS = 0.005, 2  # at rest in so many looks in a row: it waits
_SELDOM = 10  # times longer between two looks at an answer that is known to compute


class _Slow(Exception):
    """An answer that is to give its place away."""

    def __init__(self, after_s: float) -> None:
        super().__init__(after_s)
        self.after_s = after_s


@dataclass(slots=True, eq=False)
class _Job:
    """One answer to score."""

    request: ScoreRequest
    verdict: "asyncio.Future[Verdict]"
    deaths: int = 0
    """Processes that died over it."""


@dataclass(slots=True, eq=False)
class _Line:
    """One verifier: what waits for it, and the processes that it has."""

    spec: VerifierSpec
    nursery: Nursery
    waiting: FairQueue[_Job] = field(default_factory=FairQueue)
    idle: list[ScoringProcess] = field(default_factory=list)
    under_way: int = 0
    """Processes at work on it, slow ones included."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the template starts."""


class VerifierProcesses:
    """Places for `processes` answers at a time. Use within one event loop: `start`, `score` (any number), `close`."""

    def __init__(self, processes: int, recycle_after: int = 2_000) -> None:
        """`recycle_after`: answers after which a process is replaced (caches of sympy grow without bound)."""
        if processes < 1:
            raise ValueError(f"a verifier pool has at least one process, got {processes}; use 1 or more")
        self._places = self._all_places = processes
        self._recycle_after = recycle_after
        self._lines: dict[VerifierSpec, _Line] = {}
        self._at_work: set[ScoringProcess] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._started = self._closed = False

    async def start(self, specs: Sequence[VerifierSpec] = ()) -> None:
        """Load these verifiers now; others when they are first asked for.

        Raises:
            VerifierUnavailable: One cannot be loaded. Nothing is left behind.
        """
        self._started = True
        try:
            for spec, process in zip(
                specs, await asyncio.gather(*(self._process(self._line(s)) for s in specs)), strict=True
            ):
                self._line(spec).idle.append(process)
        except BaseException:
            await self.close()
            raise

    def pids(self) -> list[int]:
        """Ids of the processes that live now, templates first."""
        templates = [line.nursery.pid for line in self._lines.values() if line.nursery.pid]
        idle = [process.pid for line in self._lines.values() for process in line.idle]
        return [*templates, *idle, *(process.pid for process in self._at_work)]

    def submit(self, spec: VerifierSpec, requests: Sequence[ScoreRequest]) -> "list[asyncio.Future[Verdict]]":
        """A future verdict per request. Waiting for a place does not count towards an answer's deadline.

        An answer that takes longer gets status `timeout`, one over which processes die twice gets `error`; both cost
        only that answer. When the verifier cannot be loaded the futures raise `VerifierUnavailable`, which says why.
        What is cancelled is not worked at any more.

        Raises:
            VerifierUnavailable: Before `start` and after `close`.
        """
        if not self._started or self._closed:
            raise VerifierUnavailable(
                "these verifier processes do not run; call start() first, and score before close()"
            )
        line, loop = self._line(spec), asyncio.get_running_loop()
        jobs = [_Job(request, loop.create_future()) for request in requests]
        for job in jobs:
            line.waiting.put(job.request.prompt, job)
        self._dispatch()
        return [job.verdict for job in jobs]

    async def score(self, spec: VerifierSpec, requests: Sequence[ScoreRequest]) -> list[Verdict]:
        """A verdict per request, in order, once all are there. See `submit`.

        Raises:
            VerifierUnavailable: The verifier cannot be loaded; says why.
        """
        verdicts = self.submit(spec, requests)
        try:
            return list(await asyncio.gather(*verdicts))
        finally:
            for verdict in verdicts:
                verdict.cancel()

    async def close(self) -> None:
        """Kill the processes and wait until they are gone. Safe to call twice."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for line in self._lines.values():
            self._fail(
                line.waiting.take(len(line.waiting)), VerifierUnavailable("these verifier processes were closed")
            )
            for process in line.idle:
                process.kill()
            line.idle.clear()
        await asyncio.gather(*(line.nursery.close() for line in self._lines.values()))

    # -- who works at what ------------------------------------------------------------------------------------

    def _line(self, spec: VerifierSpec) -> _Line:
        if spec not in self._lines:
            self._lines[spec] = _Line(spec, Nursery(spec))
        return self._lines[spec]

    def _dispatch(self) -> None:
        """Give free places to verifiers that have answers waiting, in turn."""
        while self._places and not self._closed:
            lines = [line for line in self._lines.values() if line.waiting and line.under_way < line.spec.concurrency]
            if not lines:
                return
            line = min(lines, key=lambda line: line.under_way)
            count = max(1, min(_CHUNK, len(line.waiting) // self._places))
            jobs = [job for job in line.waiting.take(count) if not job.verdict.done()]
            if jobs:
                self._places -= 1
                line.under_way += 1
                task = asyncio.create_task(self._work(line, jobs))
                self._tasks.add(task)
                task.add_done_callback(partial(self._over, jobs))

    def _over(self, jobs: list[_Job], task: asyncio.Task[None]) -> None:
        """Whatever ended this work, nobody waits for its answers for ever."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error:
            logger.error("a fault of the verifier pool itself", exc_info=error)
        why = f"a fault of the verifier pool: {error!r}" if error else "these verifier processes were closed"
        self._fail(jobs, VerifierUnavailable(why))

    async def _work(self, line: _Line, jobs: list[_Job]) -> None:
        """Hold a place until these answers are scored, or the first of them turns out to be slow."""
        process: ScoringProcess | None = None
        has_place, spoiled, reusable = True, False, False

        def leave() -> None:
            nonlocal has_place
            self._places += has_place
            has_place = False
            self._dispatch()

        try:
            process = await self._process(line, fresh=any(job.deaths for job in jobs))
            self._at_work.add(process)
            for job in jobs:
                process.send(job.request)
            while jobs:
                try:
                    verdict = await self._at_once(process, line.nursery.slow_s, jobs[0])
                except _Slow as slow:
                    spoiled = len(jobs) > 1  # it will judge what goes back to the queue, and nobody is to hear of it
                    self._return(line, jobs[1:])
                    del jobs[1:]
                    leave()
                    verdict = await self._patiently(process, line.nursery, jobs[0], slow.after_s)
                self._settle(jobs.pop(0), verdict)
            spoiled |= process.yielded
            reusable = not spoiled and process.served < self._recycle_after and len(line.idle) < self._all_places
        except TimeoutError:
            why = f"no verdict within {line.nursery.timeout_s:g} s; its process was killed"
            took = 1e3 * line.nursery.timeout_s
            self._settle(jobs.pop(0), Verdict(None, "timeout", *self._who(line), feedback=why, milliseconds=took))
        except NobodyWaits:
            self._return(line, jobs[1:])
            jobs.clear()
        except ProcessDied:
            assert process is not None
            await self._over_a_death(line, process, jobs)
            process = None
        except VerifierUnavailable as error:
            self._fail([*jobs, *line.waiting.take(len(line.waiting))], error)
            jobs.clear()
        finally:
            line.under_way -= 1
            try:
                if process is not None:
                    self._at_work.discard(process)
                    if reusable:
                        line.idle.append(process)
                    else:
                        await self._bury(process)
            finally:
                leave()

    @staticmethod
    async def _at_once(process: ScoringProcess, slow_s: float, job: _Job) -> Verdict:
        """The verdict on an answer that holds a place. Raises `_Slow` when it computes for so long, or waits."""
        spent, looks, rests = 0.0, 0, 0
        while True:
            step = min(_LOOK_S if looks < _SELDOM else _SELDOM * _LOOK_S, slow_s - spent)
            try:
                return await process.receive(step, job.verdict)
            except TimeoutError:
                spent, looks = spent + step, looks + 1
                rests = rests + 1 if process.at_rest() else 0
                if rests == _LOOKS or spent >= slow_s:
                    raise _Slow(spent) from None

    @staticmethod
    async def _patiently(process: ScoringProcess, nursery: Nursery, job: _Job, spent_s: float) -> Verdict:
        """The verdict on an answer without a place. From `slow_s` on it goes on in what others leave of the machine;
        time in which they had all cores does not count towards its deadline."""
        try:
            return await process.receive(nursery.slow_s - spent_s, job.verdict)
        except TimeoutError:
            process.yield_to_others()
        left, bonus = nursery.timeout_s - nursery.slow_s, _MOST_BONUS * nursery.timeout_s
        starved = process.starved_s()
        while True:
            try:
                return await process.receive(left, job.verdict)
            except TimeoutError:
                before, starved = starved, process.starved_s()
                left = min(starved - before, bonus)
                bonus -= left
                if left < _LEAST_BONUS_S:
                    raise

    async def _over_a_death(self, line: _Line, process: ScoringProcess, jobs: list[_Job]) -> None:
        """A process ended over the first of these answers: tried again, unless it is not the first time."""
        self._at_work.discard(process)
        status = await self._bury(process)
        job = jobs[0]
        job.deaths += 1
        if job.deaths == _TRIES:
            why = f"its process died {_TRIES} times, exit status {status}"
            self._settle(jobs.pop(0), Verdict(None, "error", *self._who(line), feedback=why))
        self._return(line, jobs)
        jobs.clear()

    @staticmethod
    def _return(line: _Line, jobs: Sequence[_Job]) -> None:
        line.waiting.put_back([job.request.prompt for job in jobs], jobs)

    @staticmethod
    def _settle(job: _Job, verdict: Verdict) -> None:
        if not job.verdict.done():
            job.verdict.set_result(verdict)

    @staticmethod
    def _fail(jobs: Sequence[_Job], error: VerifierUnavailable) -> None:
        for job in jobs:
            if not job.verdict.done():
                job.verdict.set_exception(error)

    @staticmethod
    def _who(line: _Line) -> tuple[str, str]:
        return line.nursery.name, line.nursery.version

    # -- processes --------------------------------------------------------------------------------------------

    async def _process(self, line: _Line, fresh: bool = False) -> ScoringProcess:
        """One that is idle, or a new one. An answer over which a process died gets a fresh one: an idle one may have
        been killed as well, and nobody has noticed yet."""
        while line.idle and not fresh:
            process = line.idle.pop()
            if not process.hung_up:
                return process
            await self._bury(process)
        try:
            async with line.turn:
                if line.nursery.pid is None:
                    line.nursery = Nursery(line.spec)
                    await line.nursery.start()
            return await line.nursery.fork()
        except OSError as error:  # no file descriptors, no memory: it may pass
            raise VerifierUnavailable(f"no process for verifier {line.spec.name!r}: {error}") from None

    @staticmethod
    async def _bury(process: ScoringProcess) -> int:
        """Returns the exit status; -9 where the template is gone, and everything with it."""
        with contextlib.suppress(VerifierUnavailable):
            return await process.home.bury(process)
        return -9
