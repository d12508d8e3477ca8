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
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.records import BufferStatus
from rollout.admission import Admission
from rollout.bookkeeper import Bookkeeper
from rollout.buffer_state import EvalPhase, RecordedStep, RLPhase, SFTPhase
from rollout.config import RolloutConfig
from rollout.curation import GroupCurator, drop_zero_variance, keep_all
from rollout.datasets import SupervisedDataset, num_steps
from rollout.events import Dropped, Finished, Leased, PhaseBegun, Released, Trained
from rollout.experts import ExpertReport, select_experts
from rollout.fingerprint import fingerprint
from rollout.leases import Leases
from rollout.ledger import PromptOrder
from rollout.records import (
    BatchInfo,
    EvalCounts,
    GroupKey,
    GroupProgress,
    Lease,
    Prompt,
    RolloutGroup,
    Sampling,
    TrainingBatch,
)
from rollout.storage import Storage

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
    ) -> None:
        """Open the journal in `storage`, replaying it when there is one.

        Raises:
            InUse: When another live process writes this journal.
            ValueError: When a prompt id occurs twice, or the journal is of other data.
        """
        self._train = _by_id(train_prompts, "training")
        self._eval = _by_id(eval_prompts, "held-out")
        self._config = config
        self._seed = seed
        self._curator = curator or (drop_zero_variance if config.drop_zero_variance else keep_all)
        self._storage = storage
        self._books = Bookkeeper(storage, fingerprint([*train_prompts, *eval_prompts]))
        self._ledger = self._books.ledger
        self._unfinished = self._books.unfinished
        self._order = PromptOrder(list(self._train), seed, self._ledger)
        self._leases = Leases(lease_timeout_s, clock)
        self._workers: set[str] = set()
        self._version = 0
        self._phase: RLPhase | SFTPhase | EvalPhase | None = None
        self._finished = 0
        self._tokens = 0
        self._reported = 0
        self._dropped: Counter[str] = Counter()
        self._expired = 0
        self._change = asyncio.Event()
        self._tidying: asyncio.Task[None] | None = None

    # -- phases -----------------------------------------------------------------------------------------------

    async def begin_rl(self, iteration: int, steps: int, version: int, done_steps: int = 0) -> None:
        """Start an RL phase on weights `version`, or take it up after `done_steps` of its steps.

        Steps that were recorded after `done_steps` are given out again, the same groups in the same order, before
        anything new. Finished groups that no step has trained are ready, unfinished answers will be continued.

        Raises:
            ValueError: When the journal lacks steps that the checkpoint has.
        """
        batch_size, left = self._config.groups_per_step, steps - done_steps
        again = self._recorded_after(iteration, version, done_steps)
        self._begin(PhaseBegun("rl", iteration, version, steps, done_steps))
        self._version = version
        kept = []
        for key in self._ledger.buffered():
            if self._ledger.entries[key].iteration == iteration:
                kept.append(key)
            else:
                self._drop(key, "phase_over")
        trained = [key for step in again for key in step.keys]
        groups = await self._books.groups([*kept, *trained], self._train, self._curator)
        await self._books.restore([key for key in self._ledger.unfinished() if key.purpose == "train"])
        for key in self._ledger.unfinished():
            if key.purpose == "train" and self._ledger.entries[key].iteration != iteration:
                self._books.discard(key, self._unfinished.samples(key), "phase_over")
        self._order.rewind()
        accepted = len(again) * batch_size + len(kept)
        config = self._config
        self._phase = RLPhase(
            iteration,
            done_steps,
            version,
            Admission(config.max_staleness, batch_size, version, left, accepted, config.oversample),
            self._order,
            self._curator,
            config,
            [groups[key] for key in kept],
            [RecordedStep(step.version, tuple(groups[key] for key in step.keys)) for step in again],
        )
        if again:
            logger.info("%d recorded steps after step %d are trained again", len(again), done_steps)
        self._notify()

    def _recorded_after(self, iteration: int, version: int, done_steps: int) -> list[Trained]:
        steps = self._ledger.steps.get(iteration, [])
        again = steps[done_steps:]
        first = again[0].version if again else version + 1
        if done_steps > len(steps) or first != version + 1:
            raise ValueError(
                f"the checkpoint has {done_steps} steps of RL phase {iteration} and version {version}, but "
                f"{self._books} has {len(steps)} *trained* records"
                + (f", next version {first}" if again else "")
                + "; checkpoint and journal are not of one run, restore both from the same copy"
            )
        return again

    async def begin_sft(self, dataset: str, batch_size: int, epochs: float, seed: int, done_steps: int = 0) -> int:
        """Start a supervised phase on a Parquet file, or take it up. Returns its number of steps in all."""
        examples = await asyncio.to_thread(SupervisedDataset, Path(dataset))
        steps = num_steps(len(examples), batch_size, epochs)
        self._begin(PhaseBegun("sft", 0, self._version, steps, done_steps))
        self._phase = SFTPhase(examples, batch_size, seed, steps, done_steps)
        await self._books.sync()
        return steps

    async def begin_eval(self, number: int, samples: int, temperature: float, limit: int | None) -> None:
        """Start an evaluation of the first `limit` held-out prompts; answers it already has are not drawn again."""
        prompts = tuple(self._eval)[:limit]
        keys = [GroupKey("eval", number, prompt_id) for prompt_id in prompts]
        self._begin(PhaseBegun("eval", number, self._version))
        done = await self._books.groups(
            [key for key in keys if self._ledger.state(key) == "evaluated"], self._eval, curator=None
        )
        await self._books.restore(sorted(set(keys).intersection(self._ledger.unfinished())))
        self._phase = EvalPhase(number, samples, temperature, prompts, done.values())
        self._notify()

    async def end_phase(self) -> None:
        """End the phase: leases are void, what waits for training or is unfinished goes (`phase_over`)."""
        for key in self._leases.held():
            self._release(key, "phase_over")
        phase, self._phase = self._phase, None
        if isinstance(phase, RLPhase):
            for group in phase.ready:
                self._drop(group.key, "phase_over")
            for key in self._ledger.unfinished():
                if samples := self._unfinished.samples(key):
                    self._books.discard(key, samples, "phase_over")
        self._notify()
        await self._books.sync()
        if isinstance(phase, RLPhase):
            self._tidying = asyncio.create_task(self._tidy())  # minutes for gigabytes: nobody waits

    async def _tidy(self) -> None:
        try:
            await self._books.compact()
        except OSError as error:
            logger.warning("%s was not compacted, everything in it stays readable: %s", self._books, error)

    def _begin(self, event: PhaseBegun) -> None:
        """Void whatever was under way: a controller that begins a phase knows of nothing before it."""
        self._phase = None
        self._leases.clear()
        self._unfinished.clear()
        self._books.record(event)
        self._finished, self._dropped = 0, Counter()

    # -- leases -----------------------------------------------------------------------------------------------

    async def lease(self, worker: str, version: int, max_groups: int, wait_s: float) -> list[Lease]:
        """Up to `max_groups` groups to generate; waits up to `wait_s` for the first.

        A worker whose engine is behind the published `version` gets none, at once: it was left out of a transfer, or
        asked before one.
        """
        self._workers.add(worker)
        until = asyncio.get_running_loop().time() + wait_s
        leases: list[Lease] = []
        while version >= self._version and not (leases := self._grant(worker, max_groups)):
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await self._changed(min(left, max(self._leases.next_expiry_s(), 0.01)))
        return leases

    async def report(self, worker: str, progress: Sequence[GroupProgress]) -> list[GroupKey]:
        """Keep leases alive and keep what is known of their answers; durable when it returns.

        Saying it twice is the same as once. Returns the keys that the worker no longer holds: it should abort those.

        Raises:
            ValueError: When tokens between what is known and what is reported are missing.
        """
        self._workers.add(worker)
        gone = [group.key for group in progress if not self._take(worker, group)]
        if any(group.pieces for group in progress):
            await self._books.sync()
        return gone

    async def give_back(self, worker: str, progress: Sequence[GroupProgress], reason: str = "given_back") -> None:
        """End leases without a result, keeping what is known of their answers; keys not held are ignored."""
        for group in progress:
            if self._take(worker, group):
                self._release(group.key, reason)
        await self._books.sync()

    async def revoked(self, worker: str, wait_s: float) -> list[GroupKey]:
        """Groups that the worker should interrupt and give back, because their round has all it needs.

        Waits up to `wait_s` for some. Until they are given back they are named again, and may still be finished.
        """
        until = asyncio.get_running_loop().time() + wait_s
        while not (keys := self._leases.of(worker) if self._surplus else []):
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await self._changed(left)
        return keys

    async def worker_lost(self, worker: str) -> None:
        """A worker is known to be dead: its groups are free at once."""
        self._workers.discard(worker)
        for key in self._leases.of(worker):
            self._release(key, "worker_lost")

    def _grant(self, worker: str, max_groups: int) -> list[Lease]:
        for key in self._leases.expired():
            self._expired += 1
            logger.warning("the lease of %s expired: it is leased again", key)
            self._release(key, "expired")
        if not isinstance(self._phase, RLPhase | EvalPhase):
            return []
        return [self._lease(worker, key) for key in self._phase.take(max_groups, self._max_in_flight)]

    def _take(self, worker: str, progress: GroupProgress) -> bool:
        """Keep what a report says of a group; False when the worker does not hold this lease (any more)."""
        if not self._ledger.holds(worker, progress.key, progress.attempt):
            self._books.refuse(worker, progress)
            return False
        self._leases.renew(progress.key)
        self._reported += self._books.progress(worker, progress)
        return True

    def _lease(self, worker: str, key: GroupKey) -> Lease:
        attempt = self._ledger.attempts(key)
        self._discard_unusable(key)
        self._books.record(Leased(key, worker, attempt))
        self._leases.grant(worker, key)
        samples, temperature = self._config.group_size, self._config.temperature
        if isinstance(self._phase, EvalPhase):
            samples, temperature = self._phase.samples, self._phase.temperature
        sampling = Sampling(self._config.max_new_tokens, temperature, self._seed)
        prompt, pieces = self._prompts(key)[key.prompt_id], self._unfinished.pieces(key)
        return Lease(key, prompt, samples, sampling, attempt, pieces)

    def _discard_unusable(self, key: GroupKey) -> None:
        """Let samples start again whose tokens would be too old to be trained, or must be drawn in one go."""
        if self._config.deterministic:
            self._books.discard(key, self._unfinished.samples(key), "deterministic")
        elif isinstance(self._phase, RLPhase):
            bound = self._config.max_staleness
            self._books.discard(key, self._unfinished.stale_samples(key, self._phase.version, bound), "stale")

    def _release(self, key: GroupKey, reason: str) -> None:
        self._books.record(Released(key, reason))
        self._leases.end(key)
        assert isinstance(self._phase, RLPhase | EvalPhase), "leases end with their phase"
        self._phase.put_back(key)
        self._notify()

    # -- finished groups --------------------------------------------------------------------------------------

    async def finish(self, worker: str, attempt: int, group: RolloutGroup) -> bool:
        """Take a finished group; durable when it returns. False when the worker does not hold this lease (any more)."""
        if not self._ledger.holds(worker, group.key, attempt):
            self._books.refuse_group(worker, attempt, group)
            await self._books.sync()
            return False
        phase = self._phase
        assert isinstance(phase, RLPhase | EvalPhase), "leases end with their phase"
        iteration, step = (phase.iteration, phase.step) if isinstance(phase, RLPhase) else (phase.number, 0)
        payload = self._books.write(group, iteration, step)
        fate, reason = phase.finish(group)
        self._books.record(Finished(group.key, worker, attempt, payload, *_versions(group), fate, reason))
        self._leases.end(group.key)
        self._unfinished.drop(group.key)
        self._finished += 1
        self._tokens += sum(len(rollout.response) for rollout in group.rollouts)
        if reason:
            self._dropped[reason] += 1
        self._notify()
        await self._books.sync()
        return True

    # -- training ---------------------------------------------------------------------------------------------

    async def new_version(self, version: int) -> None:
        """The engines have these weights now: admission moves on.

        A number that goes back means that a controller takes the run up from a checkpoint: the phase under way is
        void, and `begin_rl` says where it goes on.
        """
        if isinstance(self._phase, RLPhase):
            if version < self._phase.admission.version:
                for key in self._leases.held():
                    self._release(key, "phase_over")
                self._phase = None
            else:
                self._phase.admission.new_version(version)
        self._version = version
        self._notify()

    async def next_batch(self, timeout_s: float) -> tuple[BatchInfo, TrainingBatch]:
        """The batch of the next step: groups_per_step ready groups, oldest first, or the next supervised examples.

        In RL the groups stay ready until `trained` names them, so a caller that lost the answer asks again.

        Raises:
            TimeoutError: After `timeout_s`, naming what was waited for.
            NothingToTrain: When nothing but dropped groups comes in.
        """
        if isinstance(self._phase, SFTPhase):
            return self._phase.next_batch()
        until = asyncio.get_running_loop().time() + timeout_s
        while True:
            phase = self._phase
            if not isinstance(phase, RLPhase):
                raise RuntimeError(
                    "there is no batch outside RL and supervised phases; call begin_rl or begin_sft first"
                )
            for key in [] if phase.recorded else phase.drop_stale():
                self._drop(key, "stale")
                self._notify()  # there is room for a replacement
            if found := phase.batch():
                return found
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                raise TimeoutError(
                    f"no batch within {timeout_s:g} s: {len(phase.ready)} of {phase.groups_per_step} groups are ready, "
                    f"{phase.admission.capacity(self._max_in_flight)} may be started; {self._where()}"
                )
            await self._changed(left)

    async def trained(self, keys: Sequence[GroupKey], version: int) -> None:
        """These groups made `version`. Durable when it returns: only then may an engine see that version.

        Saying it twice is the same as once.

        Raises:
            ValueError: When it is not the next step: versions of a phase are consecutive, recorded steps come first.
        """
        phase = self._phase
        if not isinstance(phase, RLPhase):
            raise RuntimeError("groups are trained in RL phases only; call begin_rl first")
        if version > phase.version or not self._ledger.was_trained(keys, version):
            if version != phase.version + 1:
                raise ValueError(f"a step makes the next version, {phase.version + 1} here, got {version}")
            if not phase.is_recorded(keys, version):
                self._books.record(Trained(tuple(keys), version))
            phase.trained(keys, version)
            self._notify()
        await self._books.sync()

    # -- evaluation, experts, status --------------------------------------------------------------------------

    async def eval_result(self, timeout_s: float) -> list[EvalCounts]:
        """Counts per held-out prompt, once all of them are in.

        Raises:
            TimeoutError: After `timeout_s`, naming what was waited for.
        """
        until = asyncio.get_running_loop().time() + timeout_s
        while True:
            phase = self._phase
            if not isinstance(phase, EvalPhase):
                raise RuntimeError("there is no evaluation under way; call begin_eval first")
            if (counts := phase.result()) is not None:
                return counts
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                raise TimeoutError(
                    f"evaluation {phase.number} is not complete within {timeout_s:g} s: {len(phase.counts)} of "
                    f"{len(phase.prompts)} prompts are in, {len(phase.pending)} wait for a worker; {self._where()}"
                )
            await self._changed(left)

    async def select_experts(self, iteration: int, tau_hard: float, max_per_prompt: int, out: str) -> ExpertReport:
        """Write the expert set of an iteration's RL phase to `out`."""
        await self._books.sync()
        return await asyncio.to_thread(
            select_experts, self._storage, iteration, tau_hard, max_per_prompt, self._seed, Path(out)
        )

    async def status(self) -> BufferStatus:
        """Where groups are right now."""
        rl = self._phase if isinstance(self._phase, RLPhase) else None
        return BufferStatus(
            running=len(self._leases),
            ready=len(rl.ready) if rl else 0,
            accepted=rl.admission.accepted if rl else 0,
            capacity=rl.admission.capacity(self._max_in_flight) if rl else 0,
            finished=self._finished,
            tokens=self._tokens,
            reported=self._reported,
            unfinished=len(self._unfinished),
            dropped=dict(self._dropped),
            expired=self._expired,
            refused=self._ledger.refused.total(),
        )

    async def close(self) -> None:
        """Make everything durable and free the journal. Safe to call twice."""
        if self._tidying:
            self._tidying.cancel()  # what is half done is not seen, and done again at the end of the next phase
        await self._books.close()

    # -- small things -----------------------------------------------------------------------------------------

    def _drop(self, key: GroupKey, reason: str) -> None:
        self._books.record(Dropped(key, reason))
        self._dropped[reason] += 1

    @property
    def _surplus(self) -> bool:
        return isinstance(self._phase, RLPhase) and self._phase.admission.surplus

    @property
    def _max_in_flight(self) -> int:
        return self._config.max_concurrent * len(self._workers)

    def _prompts(self, key: GroupKey) -> dict[str, Prompt]:
        return self._train if key.purpose == "train" else self._eval

    def _where(self) -> str:
        """Who has what, for messages."""
        return self._leases.describe() if self._workers else "no worker has asked for work"

    def _notify(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    async def _changed(self, seconds: float) -> None:
        """Return at the next change of state, or after `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._change.wait()


def _by_id(prompts: Sequence[Prompt], kind: str) -> dict[str, Prompt]:
    by_id = {prompt.id: prompt for prompt in prompts}
    if len(by_id) < len(prompts):
        twice = Counter(prompt.id for prompt in prompts).most_common(1)[0][0]
        raise ValueError(f"each {kind} prompt needs an id of its own, got {twice!r} twice; rename or remove one")
    return by_id


def _versions(group: RolloutGroup) -> tuple[int, int]:
    """(oldest, newest) policy version among the sampled tokens; -1 without tokens."""
    present = [r.response.versions for r in group.rollouts if len(r.response)]
    return (min(int(v.min()) for v in present), max(int(v.max()) for v in present)) if present else (-1, -1)
