"""A phase that only samples: training prompts are answered and scored by one policy, and nothing is trained.

What comes in is in the journal, for an expert set to be chosen from. Plain bookkeeping, like `rollout.buffer_state`.
"""

from rollout.events import Fate
from rollout.failures import FailureWatch
from rollout.prompt_order import PromptOrder
from rollout.records import GroupKey, Prompt, RolloutGroup

SAMPLED = "sampled"
"""Reason under which its groups are dropped from training."""


class SamplePhase:
    """So many groups, in the order of the prompts."""

    def __init__(
        self, iteration: int, groups: int, groups_per_step: int, order: PromptOrder, watch: FailureWatch, done: int = 0
    ) -> None:
        """Of `groups`, `done` came in before."""
        self.iteration = iteration
        self.groups = groups
        self.done = done
        """Groups that came in, or will not."""
        self._groups_per_step = groups_per_step
        self._order = order
        self._watch = watch
        self._running = 0
        self._rewards: list[float] = []

    @property
    def new_step(self) -> int:
        """Which step the next group counts to, from 0: as many groups as an RL step trains are one."""
        return self.done // self._groups_per_step

    def take(self, max_groups: int, max_in_flight: int) -> list[GroupKey]:
        """Groups to lease now, interrupted ones first."""
        room = min(self.groups - self.done, max_in_flight) - self._running
        count = max(0, min(max_groups, room))
        self._running += count
        return [self._order.next() for _ in range(count)]

    def leased(self, key: GroupKey, oldest: int | None) -> None:
        """A group runs; all weights of the phase are the same, so nothing is too old."""

    def put_back(self, key: GroupKey) -> None:
        """A lease ended without a result."""
        self._running -= 1
        self._order.put_back(key)

    def fail(self, prompt: Prompt) -> None:
        """A group that was taken will not be leased again."""
        self._running -= 1
        self.done += 1

    def finish(self, group: RolloutGroup) -> tuple[Fate, str]:
        """Take a finished group."""
        self._running -= 1
        self.done += 1
        self._rewards += [float(reward) for reward in group.rewards]
        self._watch.see(group)
        return "dropped", SAMPLED

    def describe(self) -> str:
        """How far it is, for messages."""
        return f"{self.done} of {self.groups} groups are sampled"

    def result(self) -> dict[str, float] | None:
        """Metrics of what came in since the buffer began it; None while groups are missing.

        Raises:
            TooManyFailures: When too many answers have no verdict.
        """
        self._watch.refuse()
        if self.done < self.groups:
            return None
        return {"reward": sum(self._rewards) / len(self._rewards)} if self._rewards else {}
