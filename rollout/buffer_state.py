"""The buffer's state in each kind of phase: what may be leased, what a finished group becomes, what is ready.

Plain bookkeeping in one thread: no journal, no leases, no waiting. The buffer (`actors.buffer`) asks, and records.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rollout.admission import Admission
from rollout.batches import is_stale, oldest_trained_version, supervised_batch, supervised_info, training_batch
from rollout.curation import GroupCurator
from rollout.datasets import SupervisedDataset
from rollout.events import Fate
from rollout.ledger import PromptOrder
from rollout.records import BatchInfo, EvalCounts, GroupKey, RolloutGroup, TrainingBatch

_BARREN_EPOCHS = 10  # so many passes without one trainable group, and an RL phase gives up


class NothingToTrain(RuntimeError):
    """Group after group is dropped: the phase would generate for ever."""


class RLPhase:
    """Groups on their way to training."""

    def __init__(
        self,
        iteration: int,
        step: int,
        admission: Admission,
        order: PromptOrder,
        curator: GroupCurator,
        groups_per_step: int,
        max_staleness: float,
        ready: Iterable[RolloutGroup] = (),
    ) -> None:
        self.iteration = iteration
        self.step = step
        """Optimizer steps done in this phase."""
        self.admission = admission
        self.groups_per_step = groups_per_step
        self.ready = list(ready)
        self._order = order
        self._curator = curator
        self._max_staleness = max_staleness
        self._barren: Counter[str] = Counter()  # groups dropped since the last accepted one, by reason
        self._rewards: list[float] = []  # of everything scored since the last step, trained or not

    def take(self, max_groups: int, max_in_flight: int) -> list[GroupKey]:
        """Groups to lease now: what admission allows, in the order of the prompts."""
        count = min(max_groups, self.admission.capacity(max_in_flight))
        for _ in range(count):
            self.admission.start()
        return [self._order.next() for _ in range(count)]

    def put_back(self, key: GroupKey) -> None:
        """A lease ended without a result."""
        self.admission.reject()
        self._order.put_back(key)

    def finish(self, group: RolloutGroup) -> tuple[Fate, str]:
        """Decide on a finished group. Returns its fate, and the reason when it is dropped."""
        self._rewards += [float(reward) for reward in group.rewards]
        curated, reason = None, "failed"
        if len(group.rewards) >= 2:  # one sibling alone has nothing to be compared with
            curated, reason = self._curator.on_group(group), self._curator.reason
        if curated is None:
            self.admission.reject()
            self._barren[reason] += 1
            return "dropped", reason
        self.admission.accept()
        self._barren.clear()
        self.ready.append(curated)
        return "buffered", ""

    def drop_stale(self, version: int) -> list[GroupKey]:
        """The bound at consumption: forget ready groups with a token more than η versions old. Returns their keys."""
        stale = {g.key for g in self.ready if is_stale(g, version, self._max_staleness)}
        for _ in stale:
            self.admission.withdraw()
        self.ready = [g for g in self.ready if g.key not in stale]
        return sorted(stale)

    def batch(self, version: int) -> tuple[BatchInfo, TrainingBatch] | None:
        """The oldest `groups_per_step` ready groups, packed; None while there are too few. They stay ready.

        Raises:
            NothingToTrain: When nothing but dropped groups comes in.
        """
        if len(self.ready) < self.groups_per_step:
            self._refuse_barren()
            return None
        self.ready.sort(key=lambda group: self._age(group, version))
        info, batch = training_batch(self.ready[: self.groups_per_step], version)
        if self._rewards:
            mean = sum(self._rewards) / len(self._rewards)
            info = replace(info, metrics=info.metrics | {"reward_generated": mean})
        return info, batch

    def trained(self, keys: Sequence[GroupKey]) -> None:
        """One step is done with these groups."""
        gone = set(keys)
        self.ready = [group for group in self.ready if group.key not in gone]
        self._rewards.clear()
        self.step += 1

    def _age(self, group: RolloutGroup, version: int) -> tuple[int, int, int]:
        """Oldest tokens first; among equals in the order of the prompts, so that η = 0 does not depend on timing."""
        oldest = oldest_trained_version(group)
        return (version if oldest is None else oldest, *self._order.position(group.key))

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
        self, number: int, samples: int, temperature: float, prompts: Sequence[str], done: Iterable[RolloutGroup] = ()
    ) -> None:
        self.number = number
        self.samples = samples
        self.temperature = temperature
        self.prompts = prompts
        self.counts = {group.key.prompt_id: count_answers(group) for group in done}
        self.pending = deque(GroupKey("eval", number, p) for p in prompts if p not in self.counts)

    def take(self, max_groups: int, max_in_flight: int) -> list[GroupKey]:
        """Groups to lease now: everything that is pending."""
        return [self.pending.popleft() for _ in range(min(max_groups, len(self.pending)))]

    def put_back(self, key: GroupKey) -> None:
        """A lease ended without a result."""
        self.pending.appendleft(key)

    def finish(self, group: RolloutGroup) -> tuple[Fate, str]:
        """Count a finished group."""
        self.counts[group.key.prompt_id] = count_answers(group)
        return "evaluated", ""

    def result(self) -> list[EvalCounts] | None:
        """Counts in the order of the prompts; None while some are missing."""
        if len(self.counts) < len(self.prompts):
            return None
        return [self.counts[prompt_id] for prompt_id in self.prompts]


class SFTPhase:
    """Supervised batches, one after the other."""

    def __init__(self, dataset: SupervisedDataset, batch_size: int, seed: int, steps: int, step: int) -> None:
        self._dataset = dataset
        self._batch_size = batch_size
        self._seed = seed
        self._steps = steps
        self._step = step

    def next_batch(self) -> tuple[BatchInfo, TrainingBatch]:
        """The batch of the next step."""
        if self._step >= self._steps:
            raise RuntimeError(f"the supervised phase has {self._steps} steps and all of them were given out")
        batch = supervised_batch(self._dataset.batch(self._step, self._batch_size, self._seed))
        self._step += 1
        return supervised_info(batch), batch


def count_answers(group: RolloutGroup) -> EvalCounts:
    """What evaluation needs to know of a held-out group."""
    rollouts = group.rollouts
    return EvalCounts(
        prompt_id=group.key.prompt_id,
        tag=group.prompt.tag,
        attempts=len(rollouts),
        correct=sum(r.verdict.status == "correct" for r in rollouts),
        failed=sum(not r.trainable for r in rollouts),
        truncated=sum(r.response.finish_reason == "length" for r in rollouts),
        tokens=sum(len(r.response) for r in rollouts),
    )
