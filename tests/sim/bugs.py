"""Bugs of the protocol, planted on purpose: what the checker is worth is how soon it finds each of them.

A bug is one method or function of the shipped code (of a fake, where the engine is at fault), replaced by a broken
twin for as long as `planted(name)` lasts. Nothing but tests can reach it.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from fakes import FakeEngine

from actors import rollout_worker as worker_module
from actors.buffer import RolloutBuffer
from actors.commits import Commits
from actors.controller import Controller
from actors.evaluations import Evaluations
from actors.training import TrainingLoop
from actors.weight_sync import WeightSync
from rollout import event_log as event_log_module
from rollout import phase_starts
from rollout.batches import training_batch
from rollout.bookkeeper import Bookkeeper
from rollout.buffer_state import RLPhase
from rollout.event_log import EventLog
from rollout.events import Released, read_log
from rollout.journal import Journal
from rollout.lease_desk import LeaseDesk
from rollout.leases import Leases
from rollout.ledger import Ledger
from rollout.phase_starts import PhaseStarts
from rollout.prompt_order import PromptOrder
from rollout.segments import SegmentWriter

Twin = Callable[[Any], Any]
"""The original → what takes its place."""


@dataclass(frozen=True, slots=True)
class Bug:
    """What is broken, and how."""

    sentence: str
    owner: Any
    name: str
    twin: Twin


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The bug is there."""
    bug = BUGS[name]
    original = getattr(bug.owner, bug.name)
    setattr(bug.owner, bug.name, bug.twin(original))
    try:
        yield
    finally:
        setattr(bug.owner, bug.name, original)


# -- the journal --------------------------------------------------------------------------------------------------


def _every_record_counts(original: Any) -> Any:
    def look_through(storage: Any, fingerprint: str, take: Any) -> tuple[int, int]:
        for record in read_log(storage):
            take(record.event)
        return original(storage, fingerprint, lambda event: None)

    return look_through


def _never_looks_behind(original: Any) -> Any:
    def settle(self: EventLog, own: int) -> None:
        self._end += own

    return settle


def _does_not_wait(original: Any) -> Any:
    async def sync(self: Journal) -> None:
        task = asyncio.create_task(original(self))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    return sync


def _log_first(original: Any) -> Any:
    def write(self: Journal, groups: tuple, pieces: tuple, events: list) -> None:
        self._log.check()
        if events:
            self._log.append(events)
        self._groups.write(*groups)
        self._pieces.write(*pieces)

    return write


def _write_without_sync(original: Any) -> Any:
    def write(self: SegmentWriter, queue: list, next_segment: int) -> None:
        original(self, queue, next_segment if self._number < next_segment else 0) if not queue else _put(self, queue)

    return write


def _put(writer: SegmentWriter, queue: list) -> None:
    for ref, batch in queue:
        if writer._file is None or writer._number != ref.segment:
            writer._number, writer._file = ref.segment, writer._storage.create(writer._kind.arrow(ref.segment))
            writer._file.write(writer._kind.schema.serialize())
        writer._file.write(batch.serialize())


def _cuts_nothing(original: Any) -> Any:
    return lambda storage, end: None


def _shared_numbers(original: Any) -> Any:
    def init(self: SegmentWriter, storage: Any, kind: Any, segment_bytes: int, incarnation: int) -> None:
        original(self, storage, kind, segment_bytes, 1)

    return init


# -- leases and reports -------------------------------------------------------------------------------------------


def _any_attempt(original: Any) -> Any:
    def holds(self: Ledger, worker: str, key: Any, attempt: int) -> bool:
        entry = self.entries.get(key)
        return entry is not None and entry.state == "leased" and entry.worker == worker

    return holds


def _late_pieces(original: Any) -> Any:
    def hear(self: LeaseDesk, worker: str, progress: Any) -> bool:
        entry = self._books.ledger.entries.get(progress.key)
        if entry is not None and entry.state == "leased":
            return original(self, entry.worker, replace(progress, attempt=entry.attempts - 1))
        return original(self, worker, progress)

    return hear


def _nothing_expires(original: Any) -> Any:
    return lambda self: []


def _any_version(original: Any) -> Any:
    async def lease(self: RolloutBuffer, worker: str, version: int, max_groups: int, wait_s: float) -> Any:
        return await original(self, worker, 1 << 60, max_groups, wait_s)

    return lease


def _interrupted_are_gone(original: Any) -> Any:
    def take_back(self: LeaseDesk, key: Any, reason: str) -> None:
        if reason != "interrupted":
            return original(self, key, reason)
        self._books.record(Released(key, reason))
        self.out.end(key)
        return self._phase_of(key).admission.reject()

    return take_back


def _slot_is_lost(original: Any) -> Any:
    def finish(self: RLPhase, group: Any) -> Any:
        fate, reason = original(self, group)
        if fate == "dropped":
            self.admission.start()
        return fate, reason

    return finish


def _starts_over(original: Any) -> Any:
    return lambda pieces=(): original(())


def _again_and_again(original: Any) -> Any:
    return lambda self, key: 0


def _unusable_go_on(original: Any) -> Any:
    return lambda self, phase, key: None


# -- steps and versions -------------------------------------------------------------------------------------------


def _nothing_again(original: Any) -> Any:
    return lambda self, iteration, version, done_steps: []


def _again_backwards(original: Any) -> Any:
    def batch(self: RLPhase) -> Any:
        found = original(self)
        if found and self.recorded:
            return found[0], training_batch(self.recorded[0].groups[::-1], self.version)[1]
        return found

    return batch


def _nothing_is_stale(original: Any) -> Any:
    return lambda self: []


def _visible_first(original: Any) -> Any:
    async def record(self: TrainingLoop, info: Any, ends: str) -> None:
        await self._sync.begin(self._commits.now.version + 1)
        await self._sync.ended()
        await original(self, info, ends)
        begin = self._sync.begin

        async def already(version: int) -> float:
            self._sync.begin = begin
            return 0.0

        self._sync.begin = already

    return record


def _bound_stays(original: Any) -> Any:
    def tighten(self: RLPhase, max_staleness: float) -> None: ...

    return tighten


def _nobody_goes_back(original: Any) -> Any:
    async def roll_back(self: TrainingLoop, phase: Any) -> None:
        resume, begin_phase = self._learner.resume, self._learner.begin_phase
        self._learner.resume = self._learner.begin_phase = lambda *args: self._learner.weights_hash()
        await original(self, phase)
        self._learner.resume, self._learner.begin_phase = resume, begin_phase

    return roll_back


def _every_time_counts(original: Any) -> Any:
    async def trained(self: RolloutBuffer, keys: Any, version: int, ends: str = "") -> None:
        if isinstance(self._now.phase, RLPhase) and self._ledger.was_trained(keys, version):
            self._now.phase.trained(keys, version)
        else:
            await original(self, keys, version, ends)

    return trained


def _label_first(original: Any) -> Any:
    async def load_weights(self: FakeEngine, slot: Any) -> None:
        self.version = slot.version
        await asyncio.sleep(0.05)
        await original(self, slot)

    return load_weights


def _always_the_next_number(original: Any) -> Any:
    async def publish(self: Controller, digest: str) -> None:
        self._commits.change(digest="")
        await original(self, digest)

    return publish


def _commit_first(original: Any) -> Any:
    async def checkpoint(self: Commits) -> None:
        await original(self)
        if (saving := self._checkpoints._saving) and saving.checkpoint not in self.now.checkpoints:
            await self.commit(saving)

    return checkpoint


def _commit_the_step_at_hand(original: Any) -> Any:
    async def settle(self: Commits, wait: bool = True) -> None:
        if saved := await self._checkpoints.durable(wait):
            self.change(checkpoints=saved.checkpoints)
            await self.commit(self.now)

    return settle


# -- changes of phase, and evaluations beside them ----------------------------------------------------------------


def _from_where_it_is(original: Any) -> Any:
    async def start_from(self: Controller, phase: Any, steps: int) -> str:
        if phase.kind != "rft":
            return await original(self, phase, steps)  # type: ignore[no-any-return]
        return await self._learner.begin_phase(self._commits.weights_dir(f"rl-{phase.iteration}"), None, steps)

    return start_from


def _goes_on_after_the_end(original: Any) -> Any:
    async def record(self: TrainingLoop, info: Any, ends: str) -> None:
        await original(self, info, "" if info.recorded else ends)

    return record


def _only_what_this_start_noted(original: Any) -> Any:
    def due(self: Evaluations, step: int) -> None:
        self._commits.change(evaluating=())
        original(self, step)

    return due


def _of_the_next_version(original: Any) -> Any:
    return lambda self, version: original(self, version) + (version > 1)


def _counts_from_nothing(original: Any) -> Any:
    async def sample(self: Any, iteration: int, groups: int) -> Any:
        phase = await original(self, iteration, groups)
        phase.done = 0
        return phase

    return sample


# -- after a restart ----------------------------------------------------------------------------------------------


def _from_the_start(original: Any) -> Any:
    def rewind(self: PromptOrder) -> None:
        self._drawn, self._freed = [0] * len(self._shares), []

    return rewind


def _freed_are_skipped(original: Any) -> Any:
    def rewind(self: PromptOrder) -> None:
        original(self)
        self._freed = []

    return rewind


def _nothing_waits(original: Any) -> Any:
    return lambda self: []


def _pieces_are_forgotten(original: Any) -> Any:
    async def restore(self: Bookkeeper, keys: Any) -> None: ...

    return restore


def _accepted_is_zero(original: Any) -> Any:
    return lambda eta, size, version, steps, accepted, oversample: original(eta, size, version, steps, 0, oversample)


def _nothing_to_repeat(original: Any) -> Any:
    return lambda self, step, version, recorded: original(self, step, version, ())


def _older_versions_too(original: Any) -> Any:
    async def begin(self: WeightSync, version: int) -> float:
        self.not_before = 0
        return await original(self, version)  # type: ignore[no-any-return]

    return begin


def _done_is_done(original: Any) -> Any:
    async def take_up(self: RolloutBuffer, iteration: int, version: int, done_steps: int) -> int | None:
        again = await original(self, iteration, version, done_steps)
        return None if again is None else 0

    return take_up


BUGS: dict[str, Bug] = {
    "fence_ignored": Bug(
        "records of a replaced writer count after a restart", event_log_module, "_look_through", _every_record_counts
    ),
    "no_fence": Bug("a replaced writer goes on and promises", EventLog, "_settle", _never_looks_behind),
    "early_promise": Bug("calls return before what they say is durable", Journal, "sync", _does_not_wait),
    "payload_late": Bug("an event refers to a payload that comes after it", Journal, "_write", _log_first),
    "payload_not_synced": Bug(
        "an event refers to a payload in the page cache", SegmentWriter, "write", _write_without_sync
    ),
    "torn_tail_kept": Bug("a torn record stays, and new ones come behind it", event_log_module, "_cut", _cuts_nothing),
    "segments_reused": Bug(
        "a segment's number is used again after its removal", SegmentWriter, "__init__", _shared_numbers
    ),
    "attempt_unchecked": Bug("a delivery of an earlier lease is taken", Ledger, "holds", _any_attempt),
    "late_pieces": Bug("reports of an earlier lease are taken for the current one", LeaseDesk, "hear", _late_pieces),
    "no_expiry": Bug("a lease that nobody renews is never free", Leases, "expired", _nothing_expires),
    "lease_behind": Bug("an engine behind the published version gets work", RolloutBuffer, "lease", _any_version),
    "interrupted_lost": Bug(
        "an interrupted group is not given out again", LeaseDesk, "take_back", _interrupted_are_gone
    ),
    "slot_leak": Bug("a filtered group keeps its slot", RLPhase, "finish", _slot_is_lost),
    "starts_over": Bug("a worker ignores the tokens that its lease brings", worker_module, "AnswerLog", _starts_over),
    "no_limit": Bug("a group that loses its workers is leased for ever", Ledger, "losses", _again_and_again),
    "unusable_go_on": Bug("answers with tokens too old are continued", LeaseDesk, "_discard_unusable", _unusable_go_on),
    "no_redo": Bug("weights go back to the checkpoint, the ledger does not", Bookkeeper, "steps_after", _nothing_again),
    "redo_reordered": Bug("recorded steps are trained again in another order", RLPhase, "batch", _again_backwards),
    "no_recheck": Bug("the bound is not checked at consumption", RLPhase, "drop_stale", _nothing_is_stale),
    "visible_first": Bug("a version is visible before its step is on record", TrainingLoop, "_record", _visible_first),
    "loose_bound": Bug("a tightened bound changes nothing", RLPhase, "tighten", _bound_stays),
    "no_rollback": Bug("the learner keeps its weights at a rollback", TrainingLoop, "_roll_back", _nobody_goes_back),
    "trained_twice": Bug("*trained* said twice counts twice", RolloutBuffer, "trained", _every_time_counts),
    "label_first": Bug(
        "an engine labels tokens with a version that it does not have yet", FakeEngine, "load_weights", _label_first
    ),
    "renumbered": Bug("every start gives weights a new number", Controller, "_publish", _always_the_next_number),
    "commit_first": Bug("the manifest names a checkpoint that is not saved yet", Commits, "checkpoint", _commit_first),
    "commit_at_hand": Bug(
        "the manifest says the step at hand of a checkpoint of an earlier one",
        Commits,
        "settle",
        _commit_the_step_at_hand,
    ),
    "rft_from_rl": Bug("RFT starts from where RL ended", Controller, "_start_from", _from_where_it_is),
    "end_unrecorded": Bug(
        "why a phase ends is not recorded with its last step", TrainingLoop, "_record", _goes_on_after_the_end
    ),
    "eval_forgotten": Bug(
        "an evaluation that is due is forgotten when the next one is", Evaluations, "due", _only_what_this_start_noted
    ),
    "eval_of_another": Bug(
        "an evaluation has the number of another version", Evaluations, "_number", _of_the_next_version
    ),
    "sampled_twice": Bug("a phase that samples begins again at a restart", PhaseStarts, "sample", _counts_from_nothing),
    "order_restarts": Bug("a resume begins the epoch again", PromptOrder, "rewind", _from_the_start),
    "freed_skipped": Bug("a resume skips prompts that are free again", PromptOrder, "rewind", _freed_are_skipped),
    "ready_forgotten": Bug("a resume forgets groups that wait to be trained", Ledger, "buffered", _nothing_waits),
    "pieces_forgotten": Bug("a resume forgets unfinished answers", Bookkeeper, "restore", _pieces_are_forgotten),
    "rest_forgotten": Bug(
        "a phase that goes on forgets the steps that only the journal has", RLPhase, "go_back", _nothing_to_repeat
    ),
    "engines_go_back": Bug(
        "engines that never stopped get older versions again", WeightSync, "begin", _older_versions_too
    ),
    "last_unattested": Bug(
        "weights are brought to engines that never stopped before they are the ones of their number",
        RolloutBuffer,
        "take_up",
        _done_is_done,
    ),
    "accepted_forgotten": Bug("a resume forgets how much was accepted", phase_starts, "Admission", _accepted_is_zero),
}
"""By name."""
