"""Evaluates the weights that the engines run on, on held-out problems.

consumes    answers of the workers, counted by the buffer
produces    pass@k and its companions, a line of metrics
waits for   the buffer, as patiently as its caller
unblocked   by the last held-out group
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from actors.endings import EvaluationFailed
from actors.progress import Progress
from actors.protocols import Buffer
from actors.records import EvalRow
from rollout.config import EvalConfig
from rollout.evaluation import summarize

_MOST_FAILED = 0.5  # share of an evaluation's answers without a verdict

Patiently = Callable[[Callable[[float], Any], str], Awaitable[Any]]
"""Asks again and again as long as answers keep coming in; what for, in words."""


class Evaluator:
    """Held-out evaluations of one run."""

    def __init__(
        self, plan: EvalConfig, buffer: Buffer, progress: Progress, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan = plan
        self._buffer = buffer
        self._progress = progress
        self._clock = clock

    async def evaluate(self, number: int, weights: str, after: str, patiently: Patiently) -> EvalRow:
        """Evaluate the weights called `weights`; answers that evaluation `number` has already are not drawn again.

        Raises:
            EvaluationFailed: Too many answers have no verdict.
        """
        plan, began = self._plan, self._clock()
        await self._buffer.begin_eval(number, plan.samples, plan.temperature, plan.limit)
        counts = await patiently(self._buffer.eval_result, f"evaluation of {weights}")
        await self._buffer.end_phase()
        metrics = summarize(counts, plan.ks)
        if metrics.get("failed_frac", 0.0) > _MOST_FAILED:
            raise EvaluationFailed(
                f"{metrics['failed_frac']:.0%} of the answers of {weights} have no verdict (verifier time-outs or "
                "errors, or workers that were lost over them: see incidents.jsonl); pass@k of the rest would mislead. "
                "The journal holds each verdict's feedback; mend the cause, or raise verifier.timeout_s, and resume"
            )
        self._progress.step("eval", self._clock() - began, metrics, weights=weights, after=after)
        return EvalRow(weights, after, metrics, num_problems=len(counts), num_samples=plan.samples)
