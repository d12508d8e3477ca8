"""Which finished groups are worth training. Whatever is dropped here stays in the journal."""

from typing import Protocol

from rollout.records import RolloutGroup


class GroupCurator(Protocol):
    """Looks at each finished training group that has at least two scored siblings."""

    def on_group(self, group: RolloutGroup) -> RolloutGroup | None:
        """The group to train (perhaps changed), or None to drop it."""
        ...

    @property
    def reason(self) -> str:
        """One word for the counter of dropped groups, e.g. `zero_variance`."""
        ...


class DropZeroVariance:
    """Dynamic sampling (DAPO 2503.14476, Eq. 11): siblings that all score alike have no advantage and teach nothing."""

    reason = "zero_variance"

    def on_group(self, group: RolloutGroup) -> RolloutGroup | None:
        """The group as it is, or None when all rewards are equal."""
        rewards = group.rewards
        return group if (rewards != rewards[0]).any() else None


class KeepAll:
    """No curation: every group with a reward is trained."""

    reason = "never"

    def on_group(self, group: RolloutGroup) -> RolloutGroup | None:
        """The group as it is."""
        return group


drop_zero_variance: GroupCurator = DropZeroVariance()
keep_all: GroupCurator = KeepAll()
