"""How far generation may run ahead of training: AReaL's admission rule (2505.24298, Eq. 3) and its counters.

The unit is the group. Pure arithmetic: this file knows no prompts, no leases and no clock.
"""

import math


def capacity(
    max_staleness: float, version: int, batch_size: int, accepted: int, running: int, max_concurrent: int
) -> int:
    """Groups that may be started now: min(max_concurrent − running, (η + v + 1)·B − (accepted + running)).

    Never negative; a fractional allowance is rounded down. With η = 0 it is synchronous training: one batch per
    version.

    Example: `capacity(2, 3, 4, accepted=12, running=8, max_concurrent=100) == 4`
    """
    pace = math.floor((max_staleness + version + 1) * batch_size) - (accepted + running)
    return max(0, min(max_concurrent - running, pace))


class Admission:
    """The counters behind the rule, for one RL phase.

    Version numbers grow over the whole run, so `accepted` starts at version·B, as after a resume in AReaL. At most
    `steps`·B groups are accepted or running in the phase: nothing is generated that the phase cannot train.

    Ages are whole numbers, so a fractional η bounds like its floor; admitting more would only generate groups that
    the check at consumption must drop.

    Over-provisioned rounds (APRIL 2509.18521): with `oversample` f > 1, up to (f − 1)·B groups more are started than
    the pace needs. Once it has its groups, the rest is `surplus`: interrupted, and continued first under the next
    version. Their tokens are one version older than their round, so pace keeps one version of the bound for them.
    """

    def __init__(
        self, max_staleness: float, batch_size: int, version: int, steps: int, ready: int = 0, oversample: float = 1.0
    ) -> None:
        """Start a phase at `version` with `steps` left to train and `ready` groups kept from before a restart.

        Raises:
            ValueError: When rounds are over-provisioned under a bound that no interrupted group could keep.
        """
        if oversample > 1 and max_staleness < 1:
            raise ValueError(
                f"over-provisioned rounds need a staleness bound of at least 1, got {max_staleness:g}: what is "
                f"interrupted is one version old when it goes on; raise rollout.max_staleness or set "
                f"rollout.oversample=1"
            )
        self.version = version
        self.accepted = version * batch_size + ready
        self.running = 0
        self._batch_size = batch_size
        self._extra = math.ceil(round((oversample - 1) * batch_size, 6))
        self.tighten(max_staleness)
        self._limit = (version + steps) * batch_size

    def tighten(self, max_staleness: float) -> None:
        """Another bound from now on. Below 1 rounds are not over-provisioned: nothing interrupted could keep it."""
        if max_staleness < 1:
            self._extra = 0
        self._lead = math.floor(max_staleness) - (1 if self._extra else 0)

    def end(self) -> None:
        """Nothing more is started: the phase has its last step."""
        self._limit = self.accepted

    def capacity(self, max_concurrent: int) -> int:
        """Groups that may be started now, within the staleness bound, the phase and `max_concurrent` in flight."""
        if self._extra and self._complete:
            return 0
        # the extra groups are as if that much were not running yet
        pace = capacity(
            self._lead, self.version, self._batch_size, self.accepted - self._extra, self.running, max_concurrent
        )
        return max(0, min(pace, self._limit - self.accepted - self.running))

    @property
    def surplus(self) -> bool:
        """True when the round has its groups and what still runs should be interrupted."""
        return self._extra > 0 and self.running > 0 and self._complete

    @property
    def _complete(self) -> bool:
        return self.accepted >= (self._lead + self.version + 1) * self._batch_size

    def start(self) -> None:
        """A group goes to a worker."""
        self.running += 1

    def accept(self) -> None:
        """A running group came back and will be trained."""
        self._leave()
        self.accepted += 1

    def reject(self) -> None:
        """A running group was filtered, failed, or given back: its slot is free again."""
        self._leave()

    def withdraw(self) -> None:
        """An accepted group will not be trained after all (stale): its slot is free again."""
        self.accepted -= 1

    def new_version(self, version: int) -> None:
        """The engines have new weights. Numbers never go back within a phase."""
        if version < self.version:
            raise ValueError(f"policy versions only grow within a phase, got {version} after {self.version}")
        self.version = version

    def _leave(self) -> None:
        assert self.running > 0, "a group left that was never started"
        self.running -= 1
