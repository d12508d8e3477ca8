"""The controller: executes the phase schedule, each change of phase a transaction.

    loop      consumes               waits for                 unblocked by
    phases    the scheduler          the training loop         a committed manifest
    training  batches (references)   buffer, learner           groups finishing       (`actors.training`)
    status    -                      nothing                   -

It holds no tokens. A phase ends in this order: weights saved → published and attested → evaluated → manifest. The next
begins with fresh optimizer and reference on the weights that it names. Whatever the manifest does not name, and no
*trained* record says, did not happen.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from actors.commits import Commits
from actors.endings import Interrupted, NotTheStartingPolicy
from actors.evaluations import Evaluations
from actors.plan import Plan
from actors.progress import Progress, still_to_come
from actors.protocols import Broadcaster, Buffer, Learner
from actors.records import RunStatus
from actors.stop_request import StopRequest
from actors.training import TrainingLoop
from actors.weight_sync import WeightSync
from rollout.expert_rule import ExpertRule
from rollout.storage import LocalDisk, Storage
from trainer.directories import copy_directory
from trainer.phases import Phase, PhaseScheduler

logger = logging.getLogger(__name__)


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
        self._scheduler = scheduler
        self._buffer = buffer
        self._learner = learner
        self._clock = clock
        self._skipped = ""  # what stands in the table for an RFT phase that had too few experts
        self._in_engines = ""  # hash of the weights the engines run on, where it is known
        self._progress = Progress(run_dir, plan.schedule.iterations, clock)
        self._commits = Commits(plan, run_dir, storage or LocalDisk(run_dir), learner, self._progress, clock)
        self._sync = WeightSync(buffer, learner, broadcaster, self._progress, plan.overlap_sync, clock)
        self._stop = StopRequest(buffer, self._progress, plan.stall_s, lambda: self._sync.under_way)
        self._evaluations = Evaluations(plan, self._commits, buffer, self._sync, self._stop, self._progress, clock)
        self._loop = TrainingLoop(
            plan, self._commits, buffer, learner, self._sync, self._evaluations, self._stop, self._progress, clock
        )
        self._progress.still_to_come = lambda: still_to_come(
            scheduler, self._commits.now, plan.groups_per_step, plan.eval.after_rl
        )

    # -- what others ask --------------------------------------------------------------------------------------

    async def run(self) -> RunStatus:
        """Execute every phase that is not committed yet. Returns the final status; errors fly, after being noted."""
        now = self._commits.now
        self._progress.state("running")
        self._progress.update(evals=now.evals, version=now.version)
        try:
            await self._commits.open()
            await self._open()
            while phase := self._scheduler.next(self._commits.now.done):
                await self._run_phase(phase)
            if unfinished := self._commits.now.phase:
                raise RuntimeError(
                    f"the {unfinished.kind} phase of iteration {unfinished.iteration + 1} is unfinished, but the "
                    f"schedule ends before it; resume with as many schedule.iterations as it was begun with"
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
            self._evaluations.cancel()
        return self._progress.picture()

    async def status(self) -> RunStatus:
        """The run as of now."""
        buffer = await self._buffer.status() if self._progress.current.state == "running" else None
        return self._progress.picture(buffer)

    async def stop(self, reason: str) -> None:
        """Ask for a checkpoint and an end at the next step boundary; returns at once."""
        self._progress.update(state="stopping")
        self._stop.ask(reason)

    # -- phases -----------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        """Name and evaluate the policy that the first phase starts from, unless a warm-up makes it."""
        first = self._scheduler.next(())
        if self._commits.now.weights or first is None or first.kind == "warmup":
            return
        digest = await self._learner.begin_phase(None, self._plan.rl, 1)
        await self._commits.keep(first.init_from)
        await self._publish(digest)
        row = await self._evaluations.evaluate(first.init_from, "base policy")
        self._commits.change(weights={first.init_from: digest}, evals=(row,))
        await self._commits.commit(self._commits.now)

    async def _run_phase(self, phase: Phase) -> None:
        under_way = self._commits.now.phase
        if under_way and under_way.is_same(phase):
            await self._continue_phase(under_way)
        else:
            await self._begin_phase(phase)
        if phase.kind == "sample":
            await self._sample(phase)
        else:
            await self._loop.train(phase)
            await self._produce(phase)

    async def _produce(self, phase: Phase) -> None:
        """The weights that the phase made get their name: saved, published, evaluated, committed."""
        digest = await self._learner.weights_hash()
        if phase.kind == "rl":  # its last step is what the engines run on
            self._in_engines = digest
            self._commits.change(digest=digest)
        await self._commits.keep(phase.produces)
        if phase.kind == "warmup" and self._plan.base_cache:
            made = self._commits.exported(phase.produces)
            await asyncio.to_thread(copy_directory, made, Path(self._plan.base_cache))
        await self._publish(digest)
        follows = self._scheduler.next((*self._commits.now.done, self._commits.now.phase or phase))
        row = None
        if self._plan.eval.after_rl or phase.kind != "rl" or follows is None:
            row = await self._evaluations.evaluate(phase.produces, self._skipped or phase.title)
        await self._commits.conclude(digest, row)

    async def _begin_phase(self, phase: Phase) -> None:
        """Fresh optimizer on the phase's initial weights: RL weights never leak into RFT."""
        self._skipped = ""
        dataset, steps = await self._dataset(phase)
        if self._skipped:
            phase = self._kept_instead(phase)
        digest = await self._start_from(phase, steps)
        if phase.average:
            sources = [(self._commits.weights_dir(name), share) for name, share in phase.average]
            digest = await self._learner.merge(sources)
        now = self._commits.now
        started_from = {**now.started_from, phase.produces: digest} if phase.kind != "sample" else now.started_from
        self._commits.change(phase=phase, step=0, steps=steps, dataset=dataset, started_from=started_from)
        if phase.kind == "rl":
            version = self._number(digest)
            if await self._goes_on(phase, version):
                self._commits.change(version=version, digest=digest)
            else:
                await self._publish(digest)
                await self._buffer.begin_rl(phase.iteration, steps, version)
        elif phase.kind == "sample":
            await self._publish(digest)

    def _kept_instead(self, phase: Phase) -> Phase:
        """An RFT phase that has too few experts: what it starts from is what it ends with."""
        schedule = self._plan.schedule
        before = [p for p in self._commits.now.done if p.iteration == phase.iteration and p.kind != "warmup"]
        if before:
            kept = before[-1].produces if schedule.if_too_few == "keep_rl" else before[0].init_from
            phase = replace(phase, init_from=kept)
        needed = f"schedule.min_experts is {schedule.min_experts}"
        logger.warning("%s, and %s; %s is kept", self._skipped, needed, phase.init_from)
        return phase

    async def _start_from(self, phase: Phase, steps: int) -> str:
        """Load what the phase starts from, with a fresh optimizer; returns the hash of the weights.

        Raises:
            NotTheStartingPolicy: They are not what was committed under that name.
        """
        name = phase.init_from
        digest = await self._learner.begin_phase(self._commits.initial(phase), self._plan.optim(phase.kind), steps)
        expected = self._commits.now.weights.get(name, digest)
        if digest != expected:
            raise NotTheStartingPolicy(
                f"{phase.kind} of iteration {phase.iteration} must start from {name} ({expected[:12]}), the "
                f"learner holds {digest[:12]}; the checkpoint was changed after it was committed"
            )
        if not self._skipped:
            logger.info("%s of iteration %d starts from %s", phase.kind, phase.iteration, name)
        return digest

    async def _continue_phase(self, phase: Phase) -> None:
        """Take up a phase at its last checkpoint."""
        state = self._commits.now
        await self._loop.resume(phase, state.checkpoint)
        if phase.kind != "rl":
            await self._begin_sft(phase, state.dataset, state.step)
            return
        if not await self._goes_on(phase, state.version):
            await self._sync.bring(state.version)
            await self._buffer.begin_rl(phase.iteration, state.steps, state.version, done_steps=state.step)
        await self._evaluations.after_step(phase)

    async def _goes_on(self, phase: Phase, version: int) -> bool:
        """Whether the buffer has the phase under way: then only the learner was lost, and the engines never stopped.

        They have the weights of a later step than the learner, perhaps unattested: they get the last recorded one
        when that is made again, which attests it.
        """
        again = await self._buffer.take_up(phase.iteration, version, self._commits.now.step)
        if again is None:
            return False
        self._sync.not_before = version + again
        if not again:
            await self._sync.bring(version)
        return True

    async def _sample(self, phase: Phase) -> None:
        """Let the engines answer training prompts; nothing is learned, so there is nothing to evaluate."""
        began, groups = self._clock(), phase.steps * self._plan.groups_per_step
        done = await self._buffer.begin_sample(phase.iteration, groups, self._commits.now.version)
        self._progress.begin("sample", phase.iteration, groups, done)
        metrics = await self._stop.patiently(self._buffer.sampled, f"{groups} sampled groups")
        await self._buffer.end_phase()
        seconds, units = self._clock() - began, groups - done
        self._progress.step("sample", seconds, metrics, units=units, iteration=phase.iteration)
        await self._commits.conclude(self._commits.now.weights[phase.produces], row=None)

    # -- data of supervised phases ----------------------------------------------------------------------------

    async def _dataset(self, phase: Phase) -> tuple[str, int]:
        """The phase's supervised data, relative to the run ('' where there are none), and its number of steps."""
        if phase.kind == "warmup":
            return self._plan.warmup_dataset, await self._begin_sft(phase, self._plan.warmup_dataset)
        if phase.kind != "rft":
            return "", phase.steps if phase.kind == "rl" else 0
        schedule, dataset = self._plan.schedule, f"experts/iteration-{phase.iteration}.parquet"
        rule = ExpertRule(schedule.tau_hard, schedule.max_per_prompt, self._plan.seed, phase.last_steps)
        report = await self._buffer.select_experts(phase.iteration, rule, str(self._run_dir / dataset))
        logger.info("expert set of iteration %d: %s", phase.iteration, report)
        if report.kept < schedule.min_experts:
            self._skipped = f"iteration {phase.iteration + 1}, RFT skipped: {report.kept} expert answers"
            return dataset, 0
        return dataset, await self._begin_sft(phase, dataset)

    async def _begin_sft(self, phase: Phase, dataset: str, done_steps: int = 0) -> int:
        sft, path, seed = self._plan.sft(phase.kind), str(self._run_dir / dataset), self._plan.seed
        held_out = self._plan.rft.holdout_frac if phase.kind == "rft" else 0.0
        return await self._buffer.begin_sft(path, sft.batch_size, sft.epochs, seed, done_steps, held_out)

    # -- weights ----------------------------------------------------------------------------------------------

    async def _publish(self, digest: str) -> None:
        """Bring the learner's weights to every engine, where they are not there yet."""
        if digest == self._in_engines:
            return
        version = self._number(digest)
        await self._sync.bring(version)
        self._commits.change(version=version, digest=digest)
        self._in_engines = digest

    def _number(self, digest: str) -> int:
        """The number of the learner's weights: it follows from what is committed, so every start of the run agrees."""
        return self._commits.now.version + (digest != self._commits.now.digest)
