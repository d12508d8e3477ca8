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
    """

    def __init__(self, max_staleness: float, batch_size: int, version: int, steps: int, ready: int = 0) -> None:
        """Start a phase at `version` with `steps` left to train and `ready` groups kept from before a restart."""
        self.version = version
        self.accepted = version * batch_size + ready
        self.running = 0
        self._max_staleness = math.floor(max_staleness)
        self._batch_size = batch_size
        self._limit = (version + steps) * batch_size

    def capacity(self, max_concurrent: int) -> int:
        """Groups that may be started now, within the staleness bound, the phase and `max_concurrent` in flight."""
        pace = capacity(
            self._max_staleness, self.version, self._batch_size, self.accepted, self.running, max_concurrent
        )
        return max(0, min(pace, self._limit - self.accepted - self.running))

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
