"""The buffer's state in each kind of phase: what may be leased, what a finished group becomes, what is ready.

Plain bookkeeping in one thread: no journal, no leases, no waiting. The buffer (`actors.buffer`) asks, and records.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from rollout.admission import Admission
from rollout.batches import is_stale, oldest_trained_version, supervised_batch, supervised_info, training_batch
from rollout.config import RolloutConfig
from rollout.curation import GroupCurator
from rollout.datasets import RowArray, SupervisedDataset, batch_rows
from rollout.drift import Drift
from rollout.events import Fate
from rollout.failures import FailureWatch
from rollout.prompt_order import Position, PromptOrder
from rollout.records import BatchInfo, EvalCounts, GroupKey, IntArray, Prompt, RolloutGroup, TrainingBatch

_MOST_HELD_OUT = 512  # examples that a supervised phase looks at without training them
_BARREN_EPOCHS = 10  # so many passes without one trainable group, and an RL phase gives up


class NothingToTrain(RuntimeError):
    """Group after group is dropped: the phase would generate for ever."""


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """A step that was trained before, on weights that the checkpoint does not have: it is trained again."""

    version: int
    """Version that it made, and makes again."""
    groups: tuple[RolloutGroup, ...]
    """In the order in which they were trained."""
    ends: str = ""
    """Why the phase ends with it; empty when it goes on."""
    seen: dict[str, float] = field(default_factory=dict)
    """What had been seen of the phase when it was trained first."""


@dataclass(frozen=True, slots=True)
class ReadyGroup:
    """A group that waits to be trained."""

    group: RolloutGroup
    oldest: int | None
    """Smallest version among the tokens that would be trained: found once, for it is looked at very often."""

    @classmethod
    def of(cls, group: RolloutGroup) -> "ReadyGroup":
        """Look at the tokens of a group."""
        return cls(group, oldest_trained_version(group))

    @property
    def key(self) -> GroupKey:
        """The group's."""
        return self.group.key


class Generates(Protocol):
    """A phase whose groups are leased to workers."""

    def take(self, max_groups: int, max_in_flight: int) -> list[GroupKey]:
        """Groups to lease now."""

    def leased(self, key: GroupKey, oldest: int | None) -> None:
        """A group runs whose oldest token, if it has one already, is of this version."""

    def put_back(self, key: GroupKey) -> None:
        """A lease ended without a result."""

    def fail(self, prompt: Prompt) -> None:
        """A group that was taken will not be leased again."""

    def finish(self, group: RolloutGroup) -> tuple[Fate, str]:
        """Decide on a finished group. Returns its fate, and the reason when it is dropped."""


class RLPhase:
    """Groups on their way to training."""

    def __init__(
        self,
        iteration: int,
        step: int,
        version: int,
        admission: Admission,
        order: PromptOrder,
        curator: GroupCurator,
        config: RolloutConfig,
        ready: Iterable[RolloutGroup] = (),
        recorded: Iterable[RecordedStep] = (),
        drift: Drift | None = None,
        rewards: Iterable[float] = (),
    ) -> None:
        self.iteration = iteration
        self.step = step
        """Optimizer steps done in this phase."""
        self.version = version
        """Version of the learner's weights; the engines' may be behind (`admission.version`)."""
        self.admission = admission
        self.max_staleness = config.max_staleness
        """η, as it stands."""
        self.ready = [ReadyGroup.of(group) for group in ready]
        self.recorded = deque(recorded)
        self.seen: dict[str, float] = {}
        """Of the phase, when `batch` was given last: goes on record with the step."""
        self._given: tuple[GroupKey, ...] | None = None
        self._order = order
        self._curator = curator
        self._config = config
        self._oldest: dict[GroupKey, int] = {}  # running group → the engines' version of its oldest token
        self._barren: Counter[str] = Counter()  # groups dropped since the last accepted one, by reason
        self._rewards = list(rewards)  # of everything scored since the last step, trained or not
        self._drift = drift or Drift()
        self._watch = FailureWatch(config.groups_per_step, config.max_failed_frac)

    @property
    def groups_per_step(self) -> int:
        """B."""
        return self._config.groups_per_step

    @property
    def next_new(self) -> int:
        """Version that new groups are trained from next: recorded steps are trained again before."""
        return self.version + len(self.recorded)

    @property
    def new_step(self) -> int:
        """Steps that are on record in this phase, whether the learner has made them again or not."""
        return self.step + len(self.recorded)

    def go_back(self, step: int, version: int, recorded: Iterable[RecordedStep]) -> None:
        """The learner is at this step again, and trains the steps after it once more; what else runs goes on."""
        self.step, self.version, self.recorded = step, version, deque(recorded)
        self._given = None

    def tighten(self, max_staleness: float) -> None:
        """A lower bound from now on: for what may be started, continued and trained."""
        self.max_staleness = max_staleness
        self.admission.tighten(max_staleness)

    def take(self, max_groups: int, max_in_flight: int) -> list[GroupKey]:
        """Groups to lease now: what admission allows, in the order of the prompts, interrupted ones first."""
        count = min(max_groups, self.admission.capacity(max_in_flight))
        for _ in range(count):
            self.admission.start()
        return [self._order.next() for _ in range(count)]

    def leased(self, key: GroupKey, oldest: int | None) -> None:
        """A group runs whose oldest token, if it has one already, is of this version."""
        now = self.admission.version
        self._oldest[key] = now if oldest is None else min(oldest, now)

    def put_back(self, key: GroupKey) -> None:
        """A lease ended without a result."""
        self._oldest.pop(key, None)
        self.admission.reject()
        self._order.put_back(key)

    def fail(self, prompt: Prompt) -> None:
        """A group that was taken will not be leased again: its slot is free."""
        self.admission.reject()
        self._barren["failed"] += 1

    def finish(self, group: RolloutGroup) -> tuple[Fate, str]:
        """Decide on a finished group. Returns its fate, and the reason when it is dropped."""
        self._oldest.pop(group.key, None)
        self._rewards += [float(reward) for reward in group.rewards]
        self._watch.see(group)
        self._drift.see(group.key.prompt_id, self.new_step, *seen(group))
        curated, reason = None, "failed"
        if len(group.rewards) >= 2:  # one sibling alone has nothing to be compared with
            curated, reason = self._curator.on_group(group), self._curator.reason
        if curated is None:
            self.admission.reject()
            self._barren[reason] += 1
            return "dropped", reason
        self.admission.accept()
        self._barren.clear()
        self.ready.append(ReadyGroup.of(curated))
        return "buffered", ""

    def drop_stale(self) -> list[ReadyGroup]:
        """The bound at consumption: forget ready groups with a token more than η versions old. Returns these."""
        stale = [g for g in self.ready if is_stale(g.oldest, self.version, self.max_staleness)]
        if not stale:
            return []
        for _ in stale:
            self.admission.withdraw()
        gone = {g.key for g in stale}
        self.ready = [g for g in self.ready if g.key not in gone]
        return sorted(stale, key=lambda g: g.key)

    def batch(self) -> tuple[BatchInfo, TrainingBatch] | None:
        """The recorded groups of the next step, else the oldest ready ones, packed; None while there are too few.

        They stay until they are trained.

        Raises:
            NothingToTrain: When nothing but dropped groups comes in.
            TooManyFailures: When too many answers have no verdict.
        """
        if self.recorded:
            step = self.recorded[0]
            info, batch = training_batch(step.groups, self.version)
            self._given = info.groups
            metrics = info.metrics | step.seen
            return replace(info, recorded=len(self.recorded), ends=step.ends, metrics=metrics), batch
        self._watch.refuse()
        if len(self.ready) < self.groups_per_step or (self._config.wait_for_late and self.late):
            self._refuse_barren()
            return None
        self.ready.sort(key=self._age)
        info, batch = training_batch([ready.group for ready in self.ready[: self.groups_per_step]], self.version)
        self._given = info.groups
        self.seen = self._drift.metrics()
        if self._rewards:
            self.seen["reward_generated"] = sum(self._rewards) / len(self._rewards)
        return replace(info, metrics=info.metrics | self.seen), batch

    def describe(self, max_in_flight: int) -> str:
        """How far the next batch is, for messages."""
        return (
            f"{len(self.ready)} of {self.groups_per_step} groups are ready, {len(self.late)} that the next step could "
            f"not train are awaited, {self.admission.capacity(max_in_flight)} may be started"
        )

    @property
    def late(self) -> list[GroupKey]:
        """Running groups that this step can still train and the next one cannot."""
        last = self.next_new - math.floor(self.max_staleness)
        return [key for key, oldest in self._oldest.items() if oldest == last]

    def is_recorded(self, keys: Sequence[GroupKey], version: int) -> bool:
        """True when these groups are the next step to be trained again.

        Raises:
            ValueError: When another step was trained in its place.
        """
        if not self.recorded:
            return False
        step = self.recorded[0]
        if (tuple(group.key for group in step.groups), step.version) == (tuple(keys), version):
            return True
        raise ValueError(
            f"the step that made version {step.version} is recorded and must be trained again, got version {version}"
        )

    def require_given(self, keys: Sequence[GroupKey]) -> None:
        """Raise `ValueError` for a step on other groups than `batch` gave last: it is a late word of a controller that
        is no more, whose step the next one trains again.
        """
        if tuple(keys) != self._given:
            raise ValueError(f"a step trains the batch that was given last, {self._given}, got {tuple(keys)}")

    def trained(self, keys: Sequence[GroupKey], version: int, ends: bool = False) -> None:
        """One step is done with these groups; it may be the last one before its time."""
        if ends:
            self.admission.end()
        if self.recorded:
            self.recorded.popleft()
        else:
            gone = set(keys)
            self.ready = [group for group in self.ready if group.key not in gone]
            self._rewards.clear()
        self.step += 1
        self.version = version

    def _age(self, ready: ReadyGroup) -> tuple[int, Position]:
        """Oldest tokens first; among equals in the order of the prompts, so that η = 0 does not depend on timing."""
        return self.version if ready.oldest is None else ready.oldest, self._order.position(ready.key)

    def _refuse_barren(self) -> None:
        dropped = self._barren.total()
        if dropped >= _BARREN_EPOCHS * max(len(self._order), self.groups_per_step):
            raise NothingToTrain(
                f"the last {dropped} groups were all dropped ({dict(self._barren)}): no problem has answers that "
                f"differ in reward; use problems of other difficulty, more answers per problem, or "
                f"rollout.drop_zero_variance=false"
            )


class EvalPhase:
    """Held-out groups on their way to counts."""

    def __init__(
        self,
        number: int,
        samples: int,
        temperature: float,
        prompts: Sequence[str],
        done: Iterable[RolloutGroup] = (),
        failed: Iterable[Prompt] = (),
    ) -> None:
        self.number = number
        self.samples = samples
        self.temperature = temperature
        self.prompts = prompts
        self.counts = {group.key.prompt_id: count_answers(group) for group in done}
        for prompt in failed:
            self.fail(prompt)
        self.pending = deque(GroupKey("eval", number, p) for p in prompts if p not in self.counts)

    def take(self, max_groups: int, max_in_flight: int) -> list[GroupKey]:
        """Groups to lease now: everything that is pending."""
        return [self.pending.popleft() for _ in range(min(max_groups, len(self.pending)))]

    def leased(self, key: GroupKey, oldest: int | None) -> None:
        """A group runs; held-out answers are never too old."""

    def put_back(self, key: GroupKey) -> None:
        """A lease ended without a result."""
        self.pending.appendleft(key)

    def fail(self, prompt: Prompt) -> None:
        """A group will not be leased again: its answers count, as answers without a verdict."""
        samples = self.samples
        self.counts[prompt.id] = EvalCounts(prompt.id, prompt.tag, samples, 0, failed=samples, truncated=0, tokens=0)

    def finish(self, group: RolloutGroup) -> tuple[Fate, str]:
        """Count a finished group."""
        self.counts[group.key.prompt_id] = count_answers(group)
        return "evaluated", ""

    def describe(self) -> str:
        """How far the evaluation is, for messages."""
        arrived = f"{len(self.counts)} of {len(self.prompts)} prompts of evaluation {self.number} are in"
        return f"{arrived}, {len(self.pending)} wait for a worker"

    def result(self) -> list[EvalCounts] | None:
        """Counts in the order of the prompts; None while some are missing."""
        if len(self.counts) < len(self.prompts):
            return None
        return [self.counts[prompt_id] for prompt_id in self.prompts]


class SFTPhase:
    """Supervised batches, one after the other."""

    def __init__(
        self,
        dataset: SupervisedDataset,
        trained: RowArray,
        held_out: RowArray,
        batch_size: int,
        seed: int,
        steps: int,
        step: int,
    ) -> None:
        """Of the dataset, the rows `trained` are trained and the rows `held_out` are not."""
        self._dataset = dataset
        self._trained = trained
        self._held_out = held_out
        self._batch_size = batch_size
        self._seed = seed
        self._steps = steps
        self._step = step

    def next_batch(self) -> tuple[BatchInfo, TrainingBatch]:
        """The batch of the next step."""
        if self._step >= self._steps:
            raise RuntimeError(f"the supervised phase has {self._steps} steps and all of them were given out")
        places = batch_rows(len(self._trained), self._batch_size, self._seed, self._step)
        batch = supervised_batch([self._dataset[int(row)] for row in self._trained[places]])
        self._step += 1
        return supervised_info(batch), batch

    def held_out_batch(self) -> TrainingBatch | None:
        """At most some hundred examples that are not trained, always the same; None when there are none."""
        rows = self._held_out[:_MOST_HELD_OUT]
        return supervised_batch([self._dataset[int(row)] for row in rows]) if len(rows) else None


def seen(group: RolloutGroup) -> tuple[bool, list[IntArray]]:
    """What `Drift.see` needs to know of a group: whether it has a correct answer, and its scored answers."""
    scored = [rollout for rollout in group.rollouts if rollout.trainable]
    return any(r.verdict.status == "correct" for r in scored), [r.response.token_ids for r in scored]


def count_answers(group: RolloutGroup) -> EvalCounts:
    """What evaluation needs to know of a held-out group.

    Answers agree when their verifier read the same final answer in them; where it gave none, when their tokens are the
    same.
    """
    rollouts = group.rollouts
    votes: Counter[str | bytes] = Counter()
    right: Counter[str | bytes] = Counter()
    for rollout in rollouts:
        if rollout.trainable:
            answer = rollout.verdict.answer or rollout.response.token_ids.tobytes()
            votes[answer] += 1
            right[answer] += rollout.verdict.status == "correct"
    polled = sorted(((votes[answer], right[answer]) for answer in votes), reverse=True)
    return EvalCounts(
        prompt_id=group.key.prompt_id,
        tag=group.prompt.tag,
        attempts=len(rollouts),
        correct=sum(r.verdict.status == "correct" for r in rollouts),
        failed=sum(not r.trainable for r in rollouts),
        truncated=sum(r.response.finish_reason == "length" for r in rollouts),
        tokens=sum(len(r.response) for r in rollouts),
        votes=tuple(count for count, _ in polled),
        right=tuple(count for _, count in polled),
        nats=-float(sum(r.response.logprobs.sum(dtype=np.float64) for r in rollouts)),
    )
