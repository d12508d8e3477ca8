"""What went wrong, how often, and when last: a run that fails long after its last fault has nobody to blame for it."""

from collections import Counter
from collections.abc import Callable


class Faults:
    """Counts by kind, over a virtual clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._last = 0.0

    def note(self, kind: str) -> None:
        """A fault, now."""
        self.counts[kind] += 1
        self.recent()

    def recent(self) -> None:
        """A fault still lasts, or ends now."""
        self._last = self._clock()

    def calm_s(self) -> float:
        """Seconds since the last fault."""
        return self._clock() - self._last
