"""The training loop: the same in every phase that learns. RL and supervised phases differ in their batches.

    consumes    batches (references)
    produces    versions, a line of metrics per step
    waits for   the buffer, the learner
    unblocked   by groups finishing

The order of a step is the protocol: train → *trained at v* durable → v visible to engines → admission moves on. The
last two may overlap with the next step (`actors.weight_sync`); a step that is rolled back is committed before them.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from actors.commits import Commits
from actors.endings import Interrupted, Unstable
from actors.evaluations import Evaluations
from actors.plan import Plan
from actors.progress import Progress
from actors.protocols import Batch, Buffer, Learner, Objective
from actors.stop_request import StopRequest
from actors.weight_sync import WeightSync
from rollout.records import BatchInfo
from trainer.phase_end import PhaseEnd
from trainer.phases import Phase, PhaseKind

logger = logging.getLogger(__name__)

_OBJECTIVES: dict[PhaseKind, Objective] = {"rl": "rl", "rft": "rft", "warmup": "sft"}


class TrainingLoop:
    """Makes the steps of a phase."""

    def __init__(
        self,
        plan: Plan,
        commits: Commits,
        buffer: Buffer,
        learner: Learner,
        sync: WeightSync,
        evaluations: Evaluations,
        stop: StopRequest,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._commits = commits
        self._buffer = buffer
        self._learner = learner
        self._sync = sync
        self._evaluations = evaluations
        self._stop = stop
        self._progress = progress
        self._clock = clock
        self._phase_end = PhaseEnd(plan.schedule.end)

    async def train(self, phase: Phase) -> None:
        """Make every step of the phase under way that is not made yet.

        Raises:
            Interrupted: Somebody asked to stop; the step at hand is committed.
            Unstable: The stability guard has nothing left to try.
            NotWritten: The disk refused the phase's last checkpoint.
        """
        state = self._commits.now
        self._progress.begin(phase.kind, phase.iteration, state.steps, state.step)
        self._commits.begin_phase()
        try:
            while self._commits.now.step < self._commits.now.steps:
                await self._step(phase)
            await self._evaluations.finish(phase)
        except Interrupted:
            await self._sync.ended()
            await self._end()
        await self._sync.ended()
        await self._commits.settled()  # what the buffer lets go of now, earlier steps would need
        if state.steps:
            await self._buffer.end_phase()

    async def _step(self, phase: Phase) -> None:
        began = self._clock()
        commits, step = self._commits, self._commits.now.step + 1
        info, batch = await self._batch(step, commits.now.steps)
        waited = self._clock() - began
        self._progress.waiting(f"learner: step {step} of {commits.now.steps}")
        metrics = await self._learner.step(batch, _OBJECTIVES[phase.kind])
        commits.change(step=step, isolation=tuple(sorted({*commits.now.isolation, *info.isolation})))
        if phase.kind == "rl":
            await self._record(info, self._ends(phase, info, metrics | info.metrics))
            self._evaluations.due(step)
        await self._guarded(phase, metrics)
        if phase.kind == "rft":
            metrics |= await self._check(phase, step)
        metrics |= info.metrics | {"wait_batch_s": waited}
        if phase.kind == "rl":
            metrics["wait_sync_s"] = await self._sync.begin(commits.now.version)
        seconds = self._clock() - began
        metrics["train_tokens_per_s"] = info.num_tokens / seconds
        self._progress.step(
            phase.kind,
            seconds,
            metrics,
            incarnation=commits.now.incarnation,
            iteration=phase.iteration,
            step=step,
            version=commits.now.version,
            again=info.recorded > 0,
        )
        self._progress.update(step=step, steps=commits.now.steps, version=commits.now.version)
        last = step == commits.now.steps
        if phase.kind == "rl":
            await self._evaluations.after_step(phase)
        if self._stop.asked:
            raise Interrupted(self._stop.reason)
        await commits.after_step(last)

    async def _batch(self, step: int, steps: int) -> tuple[BatchInfo, Batch]:
        answer: tuple[BatchInfo, Any] = await self._stop.patiently(self._buffer.next_batch, f"batch {step} of {steps}")
        return answer

    def _ends(self, phase: Phase, info: BatchInfo, metrics: dict[str, float]) -> str:
        """Why the phase ends with this step, before its last; empty when it goes on. What is on record stands."""
        state = self._commits.now
        why, signals = self._phase_end.step(state.step, metrics | self._evaluations.trend, state.signals)
        if info.recorded:
            why = info.ends
        elif state.step == state.steps:
            why = ""
        self._commits.change(signals=signals)
        if why:
            logger.warning("%s ends with step %d of %d: %s", phase.produces, state.step, state.steps, why)
            where = {"iteration": phase.iteration, "step": state.step}
            self._progress.note("phase_end", {}, **where, reason=why)
        return why

    async def _check(self, phase: Phase, step: int) -> dict[str, float]:
        """Look at the held-out loss now and then; back to where it was lowest when it has not fallen for a while."""
        rft, steps, before = self._plan.rft, self._commits.now.steps, self._commits.now.lowest
        if (step % rft.check_every and step < steps) or (batch := await self._buffer.held_out_batch()) is None:
            return {}
        loss = await self._learner.nll(batch)
        lowest = before.after(loss, step, self._commits.now.step_directory)
        self._commits.change(lowest=lowest)
        if lowest.step == step:
            await self._commits.checkpoint()
            await self._commits.settle()
            if self._commits.failure:  # a full disk: the lowest before it stands
                self._commits.change(lowest=before)
        elif lowest.checkpoint and (lowest.checks_since >= rft.patience or step == steps):
            why = f"held-out loss was lowest after step {lowest.step}: {lowest.loss:.4g}, and is {loss:.4g}"
            self._progress.note("phase_end", {}, iteration=phase.iteration, step=step, reason=why)
            await self.resume(phase, lowest.checkpoint)
            self._commits.change(phase=replace(phase, ended=why), steps=step)
        return {"heldout_nll": loss}

    async def _record(self, info: BatchInfo, ends: str) -> None:
        """These groups made the next version: durable before any engine sees it. It may be the last of the phase."""
        now = self._commits.now
        await self._buffer.trained(info.groups, now.version + 1, ends)
        self._commits.change(version=now.version + 1, digest="")
        if ends:
            assert now.phase is not None
            self._commits.change(phase=replace(now.phase, steps=now.step, ended=ends), steps=now.step)

    async def _guarded(self, phase: Phase, metrics: dict[str, float]) -> None:
        """Let the stability guard judge the step that was made, and do what it says: `Unstable` ends the run."""
        state, guard = self._commits.now, self._plan.guard_of(phase.kind)
        ruling, standing = guard.judge(metrics, state.guard)
        proven = state.step - 1 if ruling.action == "go_on" and standing.happy else state.proven
        self._commits.change(guard=standing, proven=proven)
        if ruling.action == "go_on":
            return
        logger.warning("step %d of %s: %s", state.step, phase.produces, ruling.reason)
        where = {"iteration": phase.iteration, "step": state.step}
        self._progress.note("guard", metrics, **where, action=ruling.action, reason=ruling.reason)
        if ruling.action == "stop":
            raise Unstable(f"step {state.step} of {phase.produces}: {ruling.reason}")
        if ruling.action == "tighten":
            await self._buffer.tighten(guard.bound(standing))
        else:
            await self._roll_back(phase)

    async def _roll_back(self, phase: Phase) -> None:
        """The learner takes up its last good state of the phase; the step is spent, its version has those weights.

        That is committed before an engine sees the version, so nobody ever sees another one of this number.
        """
        commits = self._commits
        await self._sync.ended()
        await commits.settle()
        now, good = commits.now, 0
        if commits.last.phase and commits.last.phase.is_same(phase):
            directory, good = now.last_good
            await self.resume(phase, directory)
        elif phase.init_from == "scratch":
            raise Unstable(f"{phase.produces} has no checkpoint to go back to: its weights were made from nothing")
        else:
            await self._learner.begin_phase(commits.initial(phase), self._plan.optim(phase.kind), now.steps)
        restored = ((now.version, now.version - (now.step - good)),) if phase.kind == "rl" else ()
        commits.change(proven=now.step, restored=now.restored + restored)
        await commits.checkpoint()
        await commits.settled()

    async def resume(self, phase: Phase, checkpoint: str) -> None:
        """The learner takes up a checkpoint of a step of this phase."""
        commits = self._commits
        path, optim = str(commits.run_dir / checkpoint), self._plan.optim(phase.kind)
        await self._learner.resume(path, commits.initial(phase), optim, commits.now.steps)

    async def _end(self) -> NoReturn:
        """Commit the step at hand, then stop. One that is outside its bands is trained again by the next start."""
        commits = self._commits
        if commits.now.guard.happy:
            await commits.checkpoint()
        await commits.settle()
        raise Interrupted("; ".join(filter(None, (self._stop.reason, commits.failure))))
