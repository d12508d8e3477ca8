"""The rollout buffer: hands out leases, takes finished groups, gives batches, keeps the journal.

    consumes    requests for work, reports of unfinished answers, finished groups, *trained at v*, new versions
    produces    leases, training batches, evaluation counts, expert sets
    waits for   workers (in `next_batch`, `eval_result`) and for the disk; never for the learner
    unblocked   by any change of its state

It neither generates nor scores. Every change of state happens in one piece between two awaits, and is posted to the
journal in the same piece; calls return when it is durable. So a cancelled call leaves nothing half done, and what
another caller sees early is ordered before everything it leads to.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.changes import Changes
from actors.records import BufferStatus
from rollout.bookkeeper import Bookkeeper
from rollout.buffer_state import RLPhase, SFTPhase
from rollout.config import RolloutConfig
from rollout.curation import GroupCurator, drop_zero_variance, keep_all
from rollout.datasets import SupervisedDataset, num_steps
from rollout.events import Dropped, Finished, PhaseBegun, TakenUp, Tightened, Trained
from rollout.expert_report import ExpertReport
from rollout.expert_rule import ExpertRule
from rollout.experts import select_experts
from rollout.lease_desk import LeaseDesk
from rollout.phase_starts import PhaseStarts
from rollout.prompt_order import PromptOrder, Share
from rollout.prompt_set import PromptSet
from rollout.records import (
    BatchInfo,
    EvalCounts,
    GroupKey,
    GroupProgress,
    Lease,
    Prompt,
    RolloutGroup,
    TrainingBatch,
)
from rollout.sample_phase import SamplePhase
from rollout.storage import Storage
from rollout.under_way import UnderWay

logger = logging.getLogger(__name__)


class RolloutBuffer:
    """One asyncio thread; every method is safe to call again after a failure of the caller."""

    def __init__(
        self,
        storage: Storage,
        train_prompts: list[Prompt],
        eval_prompts: list[Prompt],
        config: RolloutConfig,
        seed: int,
        lease_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        curator: GroupCurator | None = None,
        mixture: Sequence[Share] = (),
    ) -> None:
        """Open the journal in `storage`, replaying it when there is one.

        `mixture` says how often which of the training prompts are drawn; without one all are of one source.

        Raises:
            InUse: When another live process writes this journal.
            ValueError: When a prompt id occurs twice, or the journal is of other data.
        """
        self._prompts = PromptSet(train_prompts, eval_prompts)
        self._storage = storage
        self._books = Bookkeeper(storage, self._prompts.fingerprint())
        self._ledger = self._books.ledger
        self._unfinished = self._books.unfinished
        order = PromptOrder(mixture or [Share(tuple(self._prompts.train))], seed, self._ledger)
        curator = curator or (drop_zero_variance if config.drop_zero_variance else keep_all)
        self._starts = PhaseStarts(self._books, self._prompts, curator, config, order, self._drop)
        self._now = UnderWay()
        self._desk = LeaseDesk(
            self._books, self._prompts, config, seed, lease_timeout_s, clock, self._drop, self._now.of
        )
        self._version = 0
        self._finished = 0
        self._tokens = self._dropped_tokens = 0
        self._dropped: Counter[str] = Counter()
        self._changes = Changes()
        self._one_at_a_time = asyncio.Lock()  # a controller that is gone may have begun a phase, or experts, just now
        self._books.on_broken = self._changes.notify

    # -- phases -----------------------------------------------------------------------------------------------

    async def begin_rl(self, iteration: int, steps: int, version: int, done_steps: int = 0) -> None:
        """Start an RL phase on weights `version`, or take it up after `done_steps` of its steps.

        Steps that were recorded after `done_steps` are given out again, the same groups in the same order, before
        anything new. Finished groups that no step has trained are ready, unfinished answers will be continued.

        Raises:
            ValueError: When the journal lacks steps that the checkpoint has.
        """
        async with self._one_at_a_time:
            again = self._books.steps_after(iteration, version, done_steps)
            self._begin(PhaseBegun("rl", iteration, version, steps, done_steps))
            self._version = version
            self._now.phase = await self._starts.rl(iteration, version, done_steps, steps - done_steps, again)
            if again:
                logger.info("%d recorded steps after step %d are trained again", len(again), done_steps)
            self._changes.notify()

    async def take_up(self, iteration: int, version: int, done_steps: int) -> int | None:
        """The learner was lost, and is at `version` again after `done_steps` of this RL phase, which goes on meanwhile.

        Leases and ready groups stay. Steps that were recorded after `done_steps` are given out again, before anything
        new. Returns how many; None when no such phase is under way: then begin it.

        Raises:
            ValueError: When the journal lacks steps that the checkpoint has.
        """
        async with self._one_at_a_time:
            phase = self._now.phase
            if not isinstance(phase, RLPhase) or phase.iteration != iteration:
                return None
            steps = self._books.steps_after(iteration, version, done_steps)
            recorded = await self._starts.recorded(steps)
            self._books.record(TakenUp(iteration, version, done_steps))
            phase.go_back(done_steps, version, recorded)
        logger.info("RL phase %d goes on; %d steps after step %d are trained again", iteration, len(steps), done_steps)
        await self._books.sync()
        return len(steps)

    async def begin_sample(self, iteration: int, groups: int, version: int) -> int:
        """Sample so many training groups from weights `version`, which nothing trains, or go on with that.

        Returns how many of them there are already.
        """
        async with self._one_at_a_time:
            self._begin(PhaseBegun("sample", iteration, version, groups))
            self._version = version
            self._now.phase = phase = await self._starts.sample(iteration, groups)
            self._changes.notify()
        await self._books.sync()
        return phase.done

    async def begin_sft(
        self, dataset: str, batch_size: int, epochs: float, seed: int, done_steps: int = 0, holdout_frac: float = 0.0
    ) -> int:
        """Start a supervised phase on a Parquet file, or take it up. Returns its number of steps in all.

        The answers to about `holdout_frac` of the problems are not trained: `held_out_batch` has them.
        """
        async with self._one_at_a_time:
            examples = await asyncio.to_thread(SupervisedDataset, Path(dataset))
            trained, held_out = await asyncio.to_thread(examples.split, holdout_frac, seed)
            steps = num_steps(len(trained), batch_size, epochs)
            self._begin(PhaseBegun("sft", 0, self._version, steps, done_steps))
            self._now.phase = SFTPhase(examples, trained, held_out, batch_size, seed, steps, done_steps)
        await self._books.sync()
        return steps

    async def held_out_batch(self) -> TrainingBatch | None:
        """What the supervised phase holds out, as one batch; None when it trains on everything."""
        return self._now.supervised.held_out_batch()

    async def begin_eval(self, number: int, samples: int, temperature: float, limit: int | None) -> None:
        """Start an evaluation of the first `limit` held-out prompts; answers it already has are not drawn again.

        A phase that is under way goes on beside it.
        """
        async with self._one_at_a_time:
            self._now.evaluation = None
            self._desk.out.clear("eval")
            self._unfinished.clear("eval")
            self._books.record(PhaseBegun("eval", number, self._version))
            self._now.evaluation = await self._starts.evaluation(number, samples, temperature, limit)
            self._changes.notify()

    async def end_phase(self) -> None:
        """End the phase: leases are void, what waits for training or is unfinished goes (`phase_over`)."""
        for key in self._desk.out.held("train"):
            self._release(key, "phase_over")
        phase, self._now.phase = self._now.phase, None
        if isinstance(phase, RLPhase):
            for ready in phase.ready:
                self._lose(ready.group, "phase_over")
        if isinstance(phase, RLPhase | SamplePhase):
            for key in self._ledger.unfinished():
                if key.purpose == "train" and (samples := self._unfinished.samples(key)):
                    self._books.discard(key, samples, "phase_over")
        self._changes.notify()
        await self._books.sync()
        if isinstance(phase, RLPhase | SamplePhase):
            self._books.tidy()

    async def end_eval(self) -> None:
        """End the evaluation: its leases are void."""
        for key in self._desk.out.held("eval"):
            self._release(key, "phase_over")
        self._now.evaluation = None
        self._changes.notify()
        await self._books.sync()

    def _begin(self, event: PhaseBegun) -> None:
        """Void whatever was under way: a controller that begins a phase knows of nothing before it."""
        self._now.phase = self._now.evaluation = None
        self._desk.out.clear()
        self._unfinished.clear()
        self._books.record(event)
        self._finished, self._dropped = 0, Counter()

    # -- leases -----------------------------------------------------------------------------------------------

    async def lease(self, worker: str, version: int, max_groups: int, wait_s: float) -> list[Lease]:
        """Up to `max_groups` groups to generate; waits up to `wait_s` for the first.

        A worker whose engine was attested a `version` behind the published one gets none, at once: it was left out of
        a transfer, or asked before one.
        """
        self._desk.workers.add(worker)

        def grant() -> list[Lease] | None:
            if version < self._version:
                return []
            return self._now.grant(self._desk, worker, max_groups) or None

        leases = await self._changes.first(grant, wait_s, lambda: max(self._desk.out.next_expiry_s(), 0.01)) or []
        if leases:
            await self._books.sync()  # a restart must not give the same lease to somebody else
        return leases

    async def report(self, worker: str, progress: Sequence[GroupProgress]) -> list[GroupKey]:
        """Keep leases alive and keep what is known of their answers; durable when it returns.

        Saying it twice is the same as once. Returns the keys that the worker no longer holds: it should abort those.

        Raises:
            ValueError: When tokens between what is known and what is reported are missing.
        """
        self._desk.workers.add(worker)
        gone = [group.key for group in progress if not self._desk.hear(worker, group)]
        if any(group.pieces for group in progress):
            await self._books.sync()
        return gone

    async def give_back(self, worker: str, progress: Sequence[GroupProgress], reason: str = "given_back") -> None:
        """End leases without a result, keeping what is known of their answers; keys not held are ignored."""
        for group in progress:
            if self._desk.hear(worker, group):
                self._release(group.key, reason)
        await self._books.sync()

    async def revoked(self, worker: str, wait_s: float) -> list[GroupKey]:
        """Groups that the worker should interrupt and give back, because their round has all it needs.

        Waits up to `wait_s` for some. Until they are given back they are named again, and may still be finished.
        """
        return await self._changes.first(lambda: self._now.unwanted(self._desk, worker) or None, wait_s) or []

    async def worker_lost(self, worker: str) -> None:
        """A worker is known to be dead: its groups are free at once."""
        self._desk.workers.discard(worker)
        for key in self._desk.out.of(worker):
            self._release(key, "worker_lost")

    def _release(self, key: GroupKey, reason: str) -> None:
        self._desk.take_back(key, reason)
        self._changes.notify()

    # -- finished groups --------------------------------------------------------------------------------------

    async def finish(self, worker: str, attempt: int, group: RolloutGroup) -> bool:
        """Take a finished group; durable when it returns. False when the worker does not hold this lease (any more)."""
        if not self._ledger.holds(worker, group.key, attempt):
            self._books.refuse_group(worker, attempt, group)
            await self._books.sync()
            return False
        phase = self._now.of(group.key)
        iteration, step = group.key.epoch, 0
        if isinstance(phase, RLPhase | SamplePhase):
            iteration, step = phase.iteration, phase.new_step
        payload = self._books.write(group, iteration, step)
        fate, reason = phase.finish(group)
        self._books.record(Finished(group.key, worker, attempt, payload, *group.version_span, fate, reason))
        self._desk.out.end(group.key)
        self._unfinished.drop(group.key)
        self._finished += 1
        self._tokens += group.tokens
        if reason:
            self._dropped[reason] += 1
            self._dropped_tokens += group.tokens
        self._changes.notify()
        await self._books.sync()
        return True

    # -- training ---------------------------------------------------------------------------------------------

    async def new_version(self, version: int) -> None:
        """The engines have these weights now: admission moves on."""
        if isinstance(self._now.phase, RLPhase):
            self._now.phase.admission.new_version(version)
        self._version = version
        self._changes.notify()

    async def next_batch(self, timeout_s: float) -> tuple[BatchInfo, TrainingBatch]:
        """The batch of the next step: groups_per_step ready groups, oldest first, or the next supervised examples.

        In RL the groups stay ready until `trained` names them, so a caller that lost the answer asks again.

        Raises:
            TimeoutError: After `timeout_s`, naming what was waited for.
            NothingToTrain: When nothing but dropped groups comes in.
        """
        if isinstance(self._now.phase, SFTPhase):
            return self._now.phase.next_batch()
        return await self._changes.until(self._batch, timeout_s, "batch")

    def _batch(self) -> tuple[BatchInfo, TrainingBatch] | str:
        phase = self._now.rl
        self._books.require_whole()
        for stale in [] if phase.recorded else phase.drop_stale():
            self._lose(stale.group, "stale")  # there is room for a replacement
        return phase.batch() or f"{phase.describe(self._desk.max_in_flight)}; {self._desk.describe()}"

    async def trained(self, keys: Sequence[GroupKey], version: int, ends: str = "") -> None:
        """These groups made `version`. Durable when it returns: only then may an engine see that version.

        `ends` says why the phase ends with this step; nothing new is started from then on. Saying it twice is the same
        as once.

        Raises:
            ValueError: When it is not the next step: versions of a phase are consecutive, recorded steps come first.
        """
        phase = self._now.rl
        if version > phase.version or not self._ledger.was_trained(keys, version):
            if version != phase.version + 1:
                raise ValueError(f"a step makes the next version, {phase.version + 1} here, got {version}")
            recorded = phase.is_recorded(keys, version)
            phase.require_given(keys)
            if not recorded:
                self._books.record(Trained(tuple(keys), version, ends, dict(phase.seen)))
            phase.trained(keys, version, ends=bool(ends))
            self._changes.notify()
        await self._books.sync()

    async def tighten(self, max_staleness: float) -> None:
        """Lower the staleness bound for the rest of the RL phase, also after a resume. Durable when it returns."""
        phase = self._now.rl
        if max_staleness < phase.max_staleness:
            self._books.record(Tightened(max_staleness))
            phase.tighten(max_staleness)
            self._changes.notify()
        await self._books.sync()

    async def sampled(self, timeout_s: float) -> dict[str, float]:
        """Metrics of the phase that samples, once all its groups are in.

        Raises:
            TimeoutError: After `timeout_s`, naming what was waited for.
            TooManyFailures: When too many answers have no verdict.
        """
        return await self._changes.until(self._samples, timeout_s, "samples")

    def _samples(self) -> dict[str, float] | str:
        phase = self._now.sampling
        self._books.require_whole()
        metrics = phase.result()
        return f"{phase.describe()}; {self._desk.describe()}" if metrics is None else metrics

    # -- evaluation, experts, status --------------------------------------------------------------------------

    async def eval_result(self, timeout_s: float) -> list[EvalCounts]:
        """Counts per held-out prompt, once all of them are in.

        Raises:
            TimeoutError: After `timeout_s`, naming what was waited for.
        """
        return await self._changes.until(self._counts, timeout_s, "evaluation")

    def _counts(self) -> list[EvalCounts] | str:
        if (evaluation := self._now.evaluation) is None:
            raise RuntimeError("there is no evaluation under way; call begin_eval first")
        self._books.require_whole()
        counts = evaluation.result()
        return f"{evaluation.describe()}; {self._desk.describe()}" if counts is None else counts

    async def evaluated(self, number: int) -> list[EvalCounts]:
        """Who was right in an evaluation that was finished before, without lengths and votes."""
        return await self._starts.counts(number)

    async def select_experts(self, iteration: int, rule: ExpertRule, out: str) -> ExpertReport:
        """Write the expert set of an iteration's exploration to `out`."""
        async with self._one_at_a_time:
            await self._books.sync()
            return await asyncio.to_thread(select_experts, self._storage, iteration, rule, Path(out))

    async def status(self) -> BufferStatus:
        """Where groups are right now."""
        rl = self._now.phase if isinstance(self._now.phase, RLPhase) else None
        return BufferStatus(
            running=len(self._desk.out),
            ready=len(rl.ready) if rl else 0,
            accepted=rl.admission.accepted if rl else 0,
            capacity=rl.admission.capacity(self._desk.max_in_flight) if rl else 0,
            finished=self._finished,
            tokens=self._tokens,
            dropped_tokens=self._dropped_tokens,
            reported=self._desk.reported,
            unfinished=len(self._unfinished),
            dropped=dict(self._dropped),
            expired=self._desk.expired,
            refused=self._ledger.refused.total(),
        )

    async def close(self) -> None:
        """Make everything durable and free the journal. Safe to call twice."""
        await self._books.close()

    # -- small things -----------------------------------------------------------------------------------------

    def _lose(self, group: RolloutGroup, reason: str) -> None:
        """Drop a finished group that was to be trained."""
        self._dropped_tokens += group.tokens
        self._drop(group.key, reason)

    def _drop(self, key: GroupKey, reason: str) -> None:
        self._books.record(Dropped(key, reason))
        self._dropped[reason] += 1
        self._changes.notify()
