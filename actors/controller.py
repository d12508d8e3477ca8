"""The controller: executes the phase schedule. One loop trains in every phase; RL and RFT differ in their batches.

    loop      consumes               waits for                 unblocked by
    phases    the scheduler          the training loop         a committed manifest
    training  batches (references)   buffer, learner           groups finishing
    status    -                      nothing                   -

It holds no tokens. The order of a step is the protocol: train → *trained at v* durable → v visible to engines →
admission moves on. The last two may overlap with the next step (`actors.weight_sync`); a step that is rolled back is
committed before them. The order of a phase is a transaction: weights saved → published and attested → evaluated →
manifest. Whatever the manifest does not name, and no *trained* record says, did not happen.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from actors.endings import EvaluationFailed, Interrupted, NotTheStartingPolicy, Unstable
from actors.evaluator import Evaluator
from actors.manifest import Manifest
from actors.plan import Plan
from actors.progress import Progress, still_to_come
from actors.protocols import Broadcaster, Buffer, Learner
from actors.records import EvalRow, RunStatus
from actors.step_checkpoints import StepCheckpoints
from actors.waiting import unless, unless_failed, while_progressing
from actors.weight_sync import WeightSync
from rollout.expert_rule import ExpertRule
from rollout.records import GroupKey
from rollout.storage import LocalDisk, Storage
from trainer.directories import NotWritten, copy_directory
from trainer.phases import Phase, PhaseScheduler

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Controller:
    """Runs RLoop over a buffer, a learner and a broadcaster."""

    def __init__(
        self,
        plan: Plan,
        run_dir: Path,
        scheduler: PhaseScheduler,
        buffer: Buffer,
        learner: Learner,
        broadcaster: Broadcaster,
        storage: Storage | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        self._run_dir = run_dir
        self._storage = storage or LocalDisk(run_dir)
        self._scheduler = scheduler
        self._buffer = buffer
        self._learner = learner
        self._checkpoints = StepCheckpoints(plan, run_dir, learner, clock)
        self._clock = clock
        self._stop = asyncio.Event()
        self._stop_reason = ""
        self._skipped = ""  # what stands in the table for an RFT phase that had too few experts
        self._in_engines = ""  # hash of the weights the engines run on, where it is known
        self._progress = Progress(run_dir, plan.schedule.iterations, clock)
        self._evaluator = Evaluator(plan.eval, buffer, self._progress, clock)
        self._sync = WeightSync(buffer, learner, broadcaster, self._progress, plan.overlap_sync, clock)
        self._progress.still_to_come = lambda: still_to_come(scheduler, self._manifest, plan.schedule.rl_steps)
        self._manifest = Manifest.next_start(self._storage, plan.config_digest)
        self._committed = self._manifest  # without what a crash would undo

    # -- what others ask --------------------------------------------------------------------------------------

    async def run(self) -> RunStatus:
        """Execute every phase that is not committed yet. Returns the final status; errors fly, after being noted."""
        self._progress.state("running")
        self._progress.update(evals=self._manifest.evals, version=self._manifest.version)
        if self._manifest.weights:
            self._manifest.save(self._storage)  # the next start is the next incarnation
        try:
            await self._checkpoints.prune(self._manifest)  # what a crash left takes room
            await self._open()
            while phase := self._scheduler.next(self._manifest.done):
                await self._run_phase(phase)
            if unfinished := self._manifest.phase:
                raise RuntimeError(
                    f"the {unfinished.kind} phase of iteration {unfinished.iteration + 1} is unfinished, but the "
                    f"schedule ends before it; resume with schedule.iterations={unfinished.iteration + 1} or more"
                )
            self._progress.state("finished")
        except Interrupted as end:
            self._progress.state("interrupted", str(end))
        except BaseException as error:
            self._progress.state("failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            self._progress.waiting("")
            self._sync.cancel()
        return self._progress.picture()

    async def status(self) -> RunStatus:
        """The run as of now."""
        buffer = await self._buffer.status() if self._progress.current.state == "running" else None
        return self._progress.picture(buffer)

    async def stop(self, reason: str) -> None:
        """Ask for a checkpoint and an end at the next step boundary; returns at once."""
        self._stop_reason = reason
        self._progress.update(state="stopping")
        self._stop.set()

    # -- phases -----------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        """Name and evaluate the policy that the first phase starts from, unless a warm-up makes it."""
        first = self._scheduler.next(())
        if self._manifest.weights or first is None or first.kind == "warmup":
            return
        digest = await self._learner.begin_phase(None, self._plan.rl, 1)
        await self._keep(first.init_from)
        await self._publish(digest)
        row = await self._evaluate(first.init_from, "base policy")
        self._manifest = replace(self._manifest, weights={first.init_from: digest}, evals=(row,))
        await self._commit(self._manifest)

    async def _run_phase(self, phase: Phase) -> None:
        if self._manifest.phase == phase:
            await self._continue_phase(phase)
        else:
            await self._begin_phase(phase)
        await self._train(phase)
        digest = await self._learner.weights_hash()
        if phase.kind == "rl":  # its last step is what the engines run on
            self._in_engines = digest
            self._manifest = replace(self._manifest, digest=digest)
        await self._keep(phase.produces)
        if phase.kind == "warmup" and self._plan.base_cache:
            made = self._run_dir / "checkpoints" / phase.produces / "hf"
            await asyncio.to_thread(copy_directory, made, Path(self._plan.base_cache))
        await self._publish(digest)
        row = await self._evaluate(phase.produces, self._skipped or phase.title)
        self._manifest = self._manifest.committed(digest, row)
        await self._commit(self._manifest)

    async def _keep(self, name: str) -> None:
        """Save the learner's weights under a name, for phases to start from and for other tools to load."""
        await self._learner.save(self._weights_dir(name), optimizer=False)
        await self._checkpoints.written(name)
        await self._learner.export(str(self._run_dir / "checkpoints" / name / "hf"))

    async def _begin_phase(self, phase: Phase) -> None:
        """Fresh optimizer on the phase's initial weights: RL weights never leak into RFT."""
        self._skipped = ""
        dataset, steps = await self._dataset(phase)
        digest = await self._learner.begin_phase(self._initial(phase), self._plan.optim(phase.kind), steps)
        expected = self._manifest.weights.get(phase.init_from, digest)
        if digest != expected:
            raise NotTheStartingPolicy(
                f"{phase.kind} of iteration {phase.iteration} must start from {phase.init_from} ({expected[:12]}), the "
                f"learner holds {digest[:12]}; the checkpoint was changed after it was committed"
            )
        if not self._skipped:
            logger.info("%s of iteration %d starts from %s", phase.kind, phase.iteration, phase.init_from)
        started_from = {**self._manifest.started_from, phase.produces: digest}
        self._manifest = replace(
            self._manifest, phase=phase, step=0, steps=steps, dataset=dataset, started_from=started_from
        )
        if phase.kind == "rl":
            version = self._number(digest)
            if await self._goes_on(phase, version):
                self._manifest = replace(self._manifest, version=version, digest=digest)
            else:
                await self._publish(digest)
                await self._buffer.begin_rl(phase.iteration, steps, version)

    async def _continue_phase(self, phase: Phase) -> None:
        """Take up a phase at its last checkpoint."""
        state = self._manifest
        await self._resume(phase, state.checkpoint)
        if phase.kind != "rl":
            await self._begin_sft(phase, state.dataset, state.step)
        elif not await self._goes_on(phase, state.version):
            await self._sync.bring(state.version)
            await self._buffer.begin_rl(phase.iteration, state.steps, state.version, done_steps=state.step)

    async def _goes_on(self, phase: Phase, version: int) -> bool:
        """Whether the buffer has the phase under way: then only the learner was lost, and the engines never stopped.

        They have the weights of a later step than the learner, perhaps unattested: they get the last recorded one
        when that is made again, which attests it.
        """
        again = await self._buffer.take_up(phase.iteration, version, self._manifest.step)
        if again is None:
            return False
        self._sync.not_before = version + again
        if not again:
            await self._sync.bring(version)
        return True

    async def _resume(self, phase: Phase, checkpoint: str) -> None:
        path, optim = str(self._run_dir / checkpoint), self._plan.optim(phase.kind)
        await self._learner.resume(path, self._initial(phase), optim, self._manifest.steps)

    async def _dataset(self, phase: Phase) -> tuple[str, int]:
        """The phase's supervised data, relative to the run ('' in RL), and its number of steps."""
        if phase.kind == "rl":
            return "", self._plan.schedule.rl_steps
        dataset = self._plan.warmup_dataset
        if phase.kind == "rft":
            schedule = self._plan.schedule
            dataset = f"experts/iteration-{phase.iteration}.parquet"
            rule = ExpertRule(schedule.tau_hard, schedule.max_per_prompt, self._plan.seed)
            report = await self._buffer.select_experts(phase.iteration, rule, str(self._run_dir / dataset))
            logger.info("expert set of iteration %d: %s", phase.iteration, report)
            if report.kept < schedule.min_experts:
                self._skipped = f"iteration {phase.iteration + 1}, RFT skipped: {report.kept} expert answers"
                needed = f"schedule.min_experts is {schedule.min_experts}"
                logger.warning("%s, and %s; %s is kept", self._skipped, needed, phase.init_from)
                return dataset, 0
        return dataset, await self._begin_sft(phase, dataset)

    async def _begin_sft(self, phase: Phase, dataset: str, done_steps: int = 0) -> int:
        sft, path = self._plan.sft(phase.kind), str(self._run_dir / dataset)
        return await self._buffer.begin_sft(path, sft.batch_size, sft.epochs, self._plan.seed, done_steps)

    # -- the training loop ------------------------------------------------------------------------------------

    async def _train(self, phase: Phase) -> None:
        first, steps = self._manifest.step, self._manifest.steps
        self._progress.begin(phase.kind, phase.iteration, steps, first)
        self._checkpoints.begin_phase()
        for step in range(first + 1, steps + 1):
            began = self._clock()
            info, batch = await self._patiently(self._buffer.next_batch, f"batch {step} of {steps}")
            waited = self._clock() - began
            self._progress.waiting(f"learner: step {step} of {steps}")
            metrics = await self._learner.step(batch, "rl" if phase.kind == "rl" else "sft")
            self._manifest = replace(self._manifest, step=step)
            if phase.kind == "rl":
                await self._record(info.groups)
            await self._guarded(phase, metrics)
            metrics |= info.metrics | {"wait_batch_s": waited}
            if phase.kind == "rl":
                metrics["wait_sync_s"] = await self._sync.begin(self._manifest.version)
            seconds = self._clock() - began
            metrics["train_tokens_per_s"] = info.num_tokens / seconds
            self._progress.step(
                phase.kind,
                seconds,
                metrics,
                incarnation=self._manifest.incarnation,
                iteration=phase.iteration,
                step=step,
                version=self._manifest.version,
                again=info.recorded > 0,
            )
            self._progress.update(step=step, version=self._manifest.version)
            await self._maybe_checkpoint(last=step == steps)
        await self._sync.ended()
        await self._settled()  # what the buffer lets go of now, earlier steps would need
        if steps:
            await self._buffer.end_phase()

    async def _record(self, groups: Sequence[GroupKey]) -> None:
        """These groups made the next version: durable before any engine sees it."""
        version = self._manifest.version + 1
        await self._buffer.trained(groups, version)
        self._manifest = replace(self._manifest, version=version, digest="")

    async def _guarded(self, phase: Phase, metrics: dict[str, float]) -> None:
        """Let the stability guard judge the step that was made, and do what it says: `Unstable` ends the run."""
        state, guard = self._manifest, self._plan.guard_of(phase.kind)
        ruling, standing = guard.judge(metrics, state.guard)
        proven = state.step - 1 if ruling.action == "go_on" and standing.happy else state.proven
        self._manifest = replace(state, guard=standing, proven=proven)
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
        await self._sync.ended()
        await self._settle()
        now, good = self._manifest, 0
        if self._committed.phase == phase:
            directory, good = now.last_good
            await self._resume(phase, directory)
        elif phase.init_from == "scratch":
            raise Unstable(f"{phase.produces} has no checkpoint to go back to: its weights were made from nothing")
        else:
            await self._learner.begin_phase(self._initial(phase), self._plan.optim(phase.kind), now.steps)
        restored = ((now.version, now.version - (now.step - good)),) if phase.kind == "rl" else ()
        self._manifest = replace(now, proven=now.step, restored=now.restored + restored)
        await self._checkpoint()
        await self._settled()

    async def _publish(self, digest: str) -> None:
        """Bring the learner's weights to every engine, where they are not there yet."""
        if digest == self._in_engines:
            return
        version = self._number(digest)
        await self._sync.bring(version)
        self._manifest = replace(self._manifest, version=version, digest=digest)
        self._in_engines = digest

    def _number(self, digest: str) -> int:
        """The number of the learner's weights: it follows from what is committed, so every start of the run agrees."""
        return self._manifest.version + (digest != self._manifest.digest)

    async def _evaluate(self, weights: str, after: str) -> EvalRow:
        """Held-out pass@k of the weights that the engines run on."""
        # Its weights are on the disk already, so answers of an earlier start count, unless that one refused them.
        number = len(self._manifest.evals) + 1000 * self._manifest.failed_evals
        self._progress.begin("eval", self._progress.current.iteration, 0)
        try:
            row = await self._evaluator.evaluate(number, weights, after, self._patiently)
        except EvaluationFailed:
            replace(self._committed, failed_evals=self._committed.failed_evals + 1).save(self._storage)
            raise
        self._progress.update(evals=(*self._manifest.evals, row))
        return row

    # -- state ------------------------------------------------------------------------------------------------

    async def _maybe_checkpoint(self, last: bool) -> None:
        await self._settle(wait=False)
        if self._stop.is_set():
            await self._end()
        if last or (self._checkpoints.due() and self._manifest.guard.happy):
            await self._checkpoint()

    async def _checkpoint(self) -> None:
        """Save the learner's whole state at this step; what is under way comes first."""
        await self._settle()
        self._progress.waiting(f"learner: checkpoint of step {self._manifest.step}")
        await self._checkpoints.begin(self._manifest)

    async def _settle(self, wait: bool = True) -> None:
        """Commit the step whose checkpoint is durable; training may be further by then."""
        if wait and self._checkpoints.saving:
            self._progress.waiting(f"learner: {self._checkpoints.saving} on the disk")
        if saved := await self._checkpoints.durable(wait):
            self._manifest = replace(self._manifest, checkpoints=saved.checkpoints)
            await self._commit(saved)
        self._progress.update(message=self._checkpoints.failure)

    async def _settled(self) -> None:
        await self._settle()
        if self._checkpoints.failure:
            raise NotWritten(self._checkpoints.failure)

    async def _commit(self, manifest: Manifest) -> None:
        manifest.save(self._storage)
        self._committed = manifest
        await self._checkpoints.prune(manifest)

    async def _end(self) -> NoReturn:
        """Commit the step at hand, then stop. One that is outside its bands is trained again by the next start."""
        if self._manifest.guard.happy:
            await self._checkpoint()
        await self._settle()
        raise Interrupted("; ".join(filter(None, (self._stop_reason, self._checkpoints.failure))))

    async def _patiently(self, ask: Callable[[float], Coroutine[Any, Any, T]], what: str) -> T:
        """Wait as long as answers keep coming in; give up after `stall_s` without any. A stop request ends it."""
        self._progress.waiting(f"buffer: {what}")

        async def progress() -> int:
            status = await self._buffer.status()
            return status.finished + status.reported

        return await while_progressing(lambda: self._unless_stopped(ask(self._plan.stall_s)), progress)

    async def _unless_stopped(self, work: Awaitable[T]) -> T:
        if (result := await unless(self._stop, unless_failed(self._sync.under_way, work))) is not None:
            return result
        if self._manifest.phase is not None and self._progress.current.phase != "eval":
            await self._sync.ended()
            await self._end()
        raise Interrupted(self._stop_reason)

    # -- small things -----------------------------------------------------------------------------------------

    def _weights_dir(self, name: str) -> str:
        return str(self._run_dir / "checkpoints" / name / "weights")

    def _initial(self, phase: Phase) -> str | None:
        return None if phase.init_from == "scratch" else self._weights_dir(phase.init_from)
