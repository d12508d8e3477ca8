"""The colocated layout: every rollout worker sits beside a learner rank, in the same bundle of one reservation."""

from typing import Any


class PairedSeat:
    """A rollout worker's place in a pair. It is there as long as the rank's is."""

    def __init__(self, group: Any, bundle: int, given_back: list[int]) -> None:
        self.group = group
        self.bundle = bundle
        self._given_back = given_back

    def granted(self) -> bool:
        """Ranks and workers were granted their places together."""
        return True

    def free(self) -> None:
        """Another worker may sit here. Safe to call twice."""
        if self.bundle not in self._given_back:
            self._given_back.append(self.bundle)


class PairedSeats:
    """The places of all rollout workers, one beside each rank.

    Args:
        group: The reservation, a bundle for each pair; rank i is in bundle i.
        pairs: How many.
    """

    def __init__(self, group: Any, pairs: int) -> None:
        self.group = group
        self._free = list(range(pairs))

    def take(self) -> PairedSeat | None:
        """A place where nobody sits, if there is one."""
        return PairedSeat(self.group, self._free.pop(0), self._free) if self._free else None
