"""Ledger, journal and unfinished answers as one: a change of one is a change of all, in one piece between two awaits.

Everything that happens to a group goes through here: checked by the ledger, kept in memory, posted to the journal.
`sync` makes it durable. What is read back after a restart comes from here too.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Literal

from rollout.curation import GroupCurator
from rollout.drift import Drift
from rollout.event_log import JournalBroken
from rollout.events import Discarded, Event, PayloadRef, Progressed, Refused, Trained
from rollout.journal import Journal, read_payloads, read_pieces
from rollout.ledger import Ledger
from rollout.payloads import from_batch, pieces_from_batch, pieces_to_batch, to_batch
from rollout.prompt_set import PromptSet
from rollout.records import EvalCounts, GroupKey, GroupProgress, Piece, RolloutGroup
from rollout.storage import Storage
from rollout.unfinished import Unfinished

logger = logging.getLogger(__name__)


class Bookkeeper:
    """The one writer of a run's journal."""

    def __init__(self, storage: Storage, data_fingerprint: str) -> None:
        """Open the journal, replaying it when there is one.

        Raises:
            InUse: When another live process writes it.
            ValueError: When it is of other data.
        """
        self._storage = storage
        self.ledger = Ledger()
        self._journal = Journal(storage, data_fingerprint, take=self.ledger.apply)
        self.unfinished = Unfinished()
        self._tidying: asyncio.Task[None] | None = None
        self.on_broken: Callable[[], None] = lambda: None
        """Called whenever the journal turns out to be broken."""

    def __str__(self) -> str:
        return str(self._storage)

    # -- what happens -----------------------------------------------------------------------------------------

    def record(self, event: Event) -> None:
        """Something happened; `IllegalTransition` when it cannot."""
        self.ledger.apply(event)
        self._journal.post(event)

    def write(self, group: RolloutGroup, iteration: int, step: int) -> PayloadRef:
        """Queue the answers of a finished group; the event that refers to them is the caller's to record."""
        return self._journal.add(to_batch(group, iteration, step))

    def progress(self, worker: str, progress: GroupProgress) -> int:
        """Keep what a report of a lease that is out says of its answers. Returns how many tokens are new.

        Raises:
            ValueError: When tokens between what is known and what is reported are missing.
        """
        fresh = self.unfinished.extend(progress.key, progress.pieces)
        if not fresh:
            return 0
        tokens = _tokens(fresh)
        payload = self._journal.add_pieces(pieces_to_batch(GroupProgress(progress.key, progress.attempt, fresh)))
        self.record(Progressed(progress.key, worker, progress.attempt, payload, tokens))
        return tokens

    def refuse(self, worker: str, progress: GroupProgress) -> None:
        """Turn away a report of a lease that is not out; one without tokens leaves no trace."""
        if progress.pieces:
            self._refuse(worker, progress.attempt, progress.key, "progress", _tokens(progress.pieces))

    def refuse_group(self, worker: str, attempt: int, group: RolloutGroup) -> None:
        """Turn away a delivery of a lease that is not out."""
        self._refuse(worker, attempt, group.key, "finish", group.tokens)

    def discard(self, key: GroupKey, samples: Sequence[int], reason: str) -> None:
        """Let samples of a free group start again from nothing."""
        if samples:
            lengths = tuple(self.unfinished.discard(key, [sample]) for sample in samples)
            self.record(Discarded(key, tuple(samples), sum(lengths), reason, lengths))

    def _refuse(
        self, worker: str, attempt: int, key: GroupKey, what: Literal["progress", "finish"], tokens: int
    ) -> None:
        self.record(Refused(key, worker, attempt, what, self.ledger.state(key), tokens))

    def steps_after(self, iteration: int, version: int, done_steps: int) -> list[Trained]:
        """The recorded steps of an RL phase that a checkpoint of `done_steps` steps, at `version`, does not have.

        Raises:
            ValueError: When the checkpoint has steps that are not recorded.
        """
        steps = self.ledger.steps.get(iteration, [])
        after = steps[done_steps:]
        follows = after[0].version if after else version + 1
        if done_steps > len(steps) or follows != version + 1:
            raise ValueError(
                f"the checkpoint has {done_steps} steps of RL phase {iteration} and version {version}, but {self} has "
                f"{len(steps)} *trained* records"
                + (f", the next of version {follows}" if after else "")
                + "; checkpoint and journal are not of one run, restore both from the same copy"
            )
        return after

    # -- durability -------------------------------------------------------------------------------------------

    async def sync(self) -> None:
        """Return once everything that happened so far is durable."""
        try:
            await self._journal.sync()
        except JournalBroken:
            self.on_broken()
            raise

    def require_whole(self) -> None:
        """Raise `JournalBroken` once a write has failed."""
        self._journal.require_whole()

    def tidy(self) -> None:
        """Begin to turn what is written into its small, closed form; pieces that nothing needs any more go.

        It takes minutes for gigabytes, and nobody waits for it. One at a time: two would be in each other's way.
        """
        if self._tidying is None or self._tidying.done():
            self._tidying = asyncio.create_task(self._compact())

    async def _compact(self) -> None:
        entries = self.ledger.entries.values()
        try:
            await self._journal.compact({ref for entry in entries for ref in entry.pieces})
        except Exception as error:  # nothing depends on it: the next phase tries again
            logger.warning("%s was not compacted, everything in it stays readable: %s", self, error)

    async def close(self) -> None:
        """Make everything durable and free the journal. Safe to call twice."""
        if self._tidying:
            self._tidying.cancel()  # what is half done is not seen, and done again at the end of the next phase
        await self._journal.close()

    # -- reading back -----------------------------------------------------------------------------------------

    async def groups(
        self, keys: Collection[GroupKey], prompts: PromptSet, curator: GroupCurator | None
    ) -> dict[GroupKey, RolloutGroup]:
        """Finished groups, as their curator made them when they came in."""
        await self.sync()
        where = {ref: key for key in keys if (ref := self.ledger.entries[key].payload) is not None}

        def load() -> dict[GroupKey, RolloutGroup]:
            found = {}
            for ref, batch in read_payloads(self._storage, where):
                group = from_batch(batch, prompts[where[ref]])
                found[group.key] = (curator.on_group(group) if curator else None) or group
            return found

        return await asyncio.to_thread(load)

    async def seen(self, iteration: int) -> tuple[Drift, list[float]]:
        """What the RL phase of an iteration knows of its problems, and the rewards since its last recorded step."""
        await self.sync()
        entries = self.ledger.entries.items()
        of_phase = [e.payload for key, e in entries if key.purpose == "train" and e.iteration == iteration]
        refs = [ref for ref in of_phase if ref is not None]
        steps = len(self.ledger.steps.get(iteration, []))

        def fold() -> tuple[Drift, list[float]]:
            drift, rewards = Drift(), list[float]()
            columns = ("prompt_id", "step", "verdict_status", "reward", "token_ids")
            for _, group in read_payloads(self._storage, refs, columns):
                step, statuses = group["step"][0].as_py(), group["verdict_status"].to_pylist()
                scored = [i for i, status in enumerate(statuses) if status in ("correct", "wrong")]
                answers = (group["token_ids"][i].values.to_numpy() for i in scored)
                drift.see(group["prompt_id"][0].as_py(), step, "correct" in statuses, answers)
                if step == steps:
                    rewards += group["reward"].drop_null().to_pylist()
            return drift, rewards

        return await asyncio.to_thread(fold)

    async def evaluated(self, keys: Collection[GroupKey]) -> list[EvalCounts]:
        """Attempts and correct answers of the held-out groups among these that are finished."""
        await self.sync()
        entries = self.ledger.entries
        found = (entries[key].payload for key in keys if self.ledger.state(key) == "evaluated")
        refs = [ref for ref in found if ref is not None]

        def count() -> list[EvalCounts]:
            counts = []
            for _, group in read_payloads(self._storage, refs, ("prompt_id", "verdict_status")):
                statuses = group["verdict_status"].to_pylist()
                failed = sum(status not in ("correct", "wrong") for status in statuses)
                prompt_id, correct = group["prompt_id"][0].as_py(), statuses.count("correct")
                counts.append(EvalCounts(prompt_id, "", len(statuses), correct, failed, truncated=0, tokens=0))
            return counts

        return await asyncio.to_thread(count)

    async def restore(self, keys: Collection[GroupKey]) -> None:
        """Take the pieces of these groups back into memory."""
        await self.sync()
        entries = self.ledger.entries
        where = {ref: (key, number) for key in keys for number, ref in enumerate(entries[key].pieces)}

        def load() -> list[tuple[PayloadRef, tuple[Piece, ...]]]:
            return [(ref, pieces_from_batch(batch)) for ref, batch in read_pieces(self._storage, where)]

        for ref, pieces in await asyncio.to_thread(load):
            key, number = where[ref]
            void = entries[key].restarted
            self.unfinished.extend(key, [p for p in pieces if number >= void.get(p.sample_index, 0)])


def _tokens(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.segment) for piece in pieces)
