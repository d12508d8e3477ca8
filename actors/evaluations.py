"""Evaluates the weights that the engines run on, on held-out problems: after a phase, and in the middle of one.

    consumes    answers of the workers, counted by the buffer
    produces    pass@k and its companions, a line of metrics each
    waits for   the buffer; in the middle of a phase training goes on meanwhile, unless `eval.overlap` is off
    unblocked   by the last held-out group

An evaluation has the number of the policy version that it began with, so every start of a run finds the answers that
an earlier one has drawn. At most one is under way.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from actors.commits import Commits
from actors.endings import EvaluationFailed
from actors.plan import Plan
from actors.progress import Progress
from actors.protocols import Buffer
from actors.records import EvalRow, best
from actors.stop_request import StopRequest
from actors.weight_sync import WeightSync
from rollout.evaluation import forgetting, summarize
from trainer.directories import NotWritten
from trainer.phase_end import PhaseEnd, trend
from trainer.phases import Phase

logger = logging.getLogger(__name__)

_MOST_FAILED = 0.5  # share of an evaluation's answers without a verdict
_AFRESH = 1_000_000  # between the numbers of an evaluation and of the next try, when too many answers had no verdict


class Evaluations:
    """Held-out evaluations of one run."""

    def __init__(
        self,
        plan: Plan,
        commits: Commits,
        buffer: Buffer,
        sync: WeightSync,
        stop: StopRequest,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan.eval
        self._commits = commits
        self._buffer = buffer
        self._sync = sync
        self._stop = stop
        self._progress = progress
        self._clock = clock
        self._under_way: asyncio.Task[EvalRow] | None = None
        self._step = 0  # after which the one under way was begun
        self._phase_end = PhaseEnd(plan.schedule.end)
        self._watched = plan.schedule.end.overfit_metric or f"pass@{max(plan.eval.ks)}"

    async def evaluate(self, weights: str, after: str) -> EvalRow:
        """Evaluate the weights called `weights`, which the engines run on, and wait for it.

        Raises:
            EvaluationFailed: Too many answers have no verdict.
        """
        self._progress.begin("eval", self._progress.current.iteration, 0)
        row = await self._evaluate(self._number(self._commits.now.version), weights, after, step=0)
        self._progress.update(evals=(*self._commits.now.evals, row))
        return row

    def due(self, step: int) -> None:
        """A step was recorded. If an evaluation is due after it, no checkpoint from now on forgets that."""
        now, every = self._commits.now, self._plan.every_steps
        if every and step % every == 0 and step < now.steps:
            self._commits.change(evaluating=(*now.evaluating, (now.version, step)))

    async def after_step(self, phase: Phase) -> None:
        """Begin the evaluation that is due, if engines have its version by now; book the one under way if it has ended.

        After a restart engines may be behind for a while, or ahead of the steps that are made again: then those of a
        run in which training waits have all their answers, and others come from later versions.

        Raises:
            EvaluationFailed: Too many answers of the one under way have no verdict.
        """
        if self._under_way and (self._waiting or self._under_way.done()):
            await self.ended()
        while self._waiting and self._under_way is None:
            await self._sync.ended()
            version, step = self._waiting[0]
            if self._plan.overlap and self._sync.attested < version:
                return
            await self._begin(phase, version, step)

    async def finish(self, phase: Phase) -> None:
        """The phase has its last step: nothing is due any more when this returns."""
        await self.ended()
        await self._sync.ended()
        for version, step in self._waiting:
            await self._begin(phase, version, step)
            await self.ended()

    @property
    def _waiting(self) -> list[tuple[int, int]]:
        """(version, step) of the evaluations that are due and not under way."""
        return [due for due in self._commits.now.evaluating if due[1] != self._step]

    async def ended(self) -> None:
        """Wait for the evaluation under way, if there is one, and book it."""
        if self._under_way is None:
            return
        evaluation, self._under_way, self._step = self._under_way, None, 0
        self._progress.waiting("buffer: an evaluation in the middle of the phase")
        row = await evaluation
        now = self._commits.now
        signals = now.signals
        if (scored := row.metrics.get(self._watched)) is not None:
            trend, signals = self._phase_end.evaluated(row.step, scored, signals)
            if trend:
                self._progress.note("trend", trend, iteration=self._progress.current.iteration, step=row.step)
        left = tuple(pending for pending in now.evaluating if pending[1] != row.step)
        self._commits.change(evals=self._with_best((*now.evals, row)), evaluating=left, signals=signals)
        self._progress.update(evals=self._commits.now.evals)

    def _with_best(self, evals: tuple[EvalRow, ...]) -> tuple[EvalRow, ...]:
        """Of the weights in the middle of phases, the best evaluated are kept if they are better than all others."""
        top = best(evals, self._plan.ranked_by)
        return tuple(replace(row, kept=row.kept and (not row.step or row is top)) for row in evals)

    @property
    def trend(self) -> dict[str, float]:
        """How training reward and held-out pass@k moved over the last evaluations of the phase; empty at first."""
        return trend(self._commits.now.signals.curve)

    def cancel(self) -> None:
        """The run is over."""
        if self._under_way:
            self._under_way.cancel()

    async def _begin(self, phase: Phase, version: int, step: int) -> None:
        weights, after = f"{phase.produces}-step-{step}", f"iteration {phase.iteration + 1}, RL step {step}"
        if self._plan.keep_best and self._commits.now.step == step:  # else the learner is further by now
            try:
                await self._commits.keep(weights)
            except NotWritten as error:  # a phase goes on without it
                logger.warning("%s. They are evaluated, and cannot be kept", error)
        self._step = step
        self._under_way = asyncio.create_task(self._evaluate(self._number(version), weights, after, step))
        self._under_way.add_done_callback(lambda task: task.cancelled() or task.exception())  # it may be left behind
        if not self._plan.overlap:
            await self.ended()

    def _number(self, version: int) -> int:
        failed = sum(number % _AFRESH == version for number in self._commits.now.failed_evals)
        return version + _AFRESH * failed

    async def _evaluate(self, number: int, weights: str, after: str, step: int) -> EvalRow:
        plan, began = self._plan, self._clock()
        await self._buffer.begin_eval(number, plan.samples, plan.temperature, plan.limit)
        waits_for = f"evaluation of {weights}"
        counts = await self._stop.patiently(self._buffer.eval_result, waits_for, shown=not step)
        await self._buffer.end_eval()
        metrics = await asyncio.to_thread(summarize, counts, plan.ks)
        if metrics.get("failed_frac", 0.0) > _MOST_FAILED:
            self._commits.note_failed_evaluation(number)
            raise EvaluationFailed(
                f"{metrics['failed_frac']:.0%} of the answers of {weights} have no verdict (verifier time-outs or "
                "errors, or workers that were lost over them: see incidents.jsonl); pass@k of the rest would mislead. "
                "The journal holds each verdict's feedback; mend the cause, or raise verifier.timeout_s, and resume"
            )
        earlier = self._commits.now.evals
        for name, row in (("forgetting_base", earlier[:1]), ("forgetting_last", earlier[-1:])):
            if row:
                metrics[name] = forgetting(await self._buffer.evaluated(row[0].number), counts)
        seconds, version = self._clock() - began, number % _AFRESH
        self._progress.step("eval", seconds, metrics, weights=weights, after=after, version=version, step=step)
        kept = not step or self._commits.has(weights)
        return EvalRow(weights, after, metrics, len(counts), plan.samples, number, step, kept)
