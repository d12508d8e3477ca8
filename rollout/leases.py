"""Who holds which group, since when, and until when. Plain bookkeeping over a clock that is handed in."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from rollout.records import GroupKey, Purpose


@dataclass(slots=True)
class Holding:
    """One lease that is out."""

    worker: str
    since: float
    deadline: float


class Leases:
    """Leases with deadlines; a lease that is not renewed for `timeout_s` has expired."""

    def __init__(self, timeout_s: float, clock: Callable[[], float]) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._held: dict[GroupKey, Holding] = {}

    def __len__(self) -> int:
        return len(self._held)

    def grant(self, worker: str, key: GroupKey) -> None:
        """The worker has the group from now on."""
        now = self._clock()
        self._held[key] = Holding(worker, now, now + self._timeout_s)

    def renew(self, key: GroupKey) -> None:
        """Its worker is still at it."""
        self._held[key].deadline = self._clock() + self._timeout_s

    def end(self, key: GroupKey) -> None:
        """The lease is over, whatever the reason."""
        del self._held[key]

    def clear(self, purpose: Purpose | None = None) -> None:
        """Forget the leases of a purpose, or all."""
        for key in self.held(purpose):
            del self._held[key]

    def held(self, purpose: Purpose | None = None) -> list[GroupKey]:
        """Groups of a purpose on lease, or all, oldest first."""
        return [key for key in self._held if purpose in (None, key.purpose)]

    def of(self, worker: str) -> list[GroupKey]:
        """Groups that the worker holds."""
        return [key for key, holding in self._held.items() if holding.worker == worker]

    def expired(self) -> list[GroupKey]:
        """Groups whose worker did not renew in time."""
        now = self._clock()
        return [key for key, holding in self._held.items() if holding.deadline <= now]

    def next_expiry_s(self) -> float:
        """Seconds until the next lease can expire; infinite without leases."""
        return min((h.deadline for h in self._held.values()), default=float("inf")) - self._clock()

    def describe(self) -> str:
        """For people: `w0 runs 3 groups, the oldest (train/0/p17) for 12 s`, per worker."""
        now = self._clock()
        counts = Counter(holding.worker for holding in self._held.values())
        parts = []
        for worker, count in sorted(counts.items()):
            key, oldest = min(
                ((k, h) for k, h in self._held.items() if h.worker == worker), key=lambda item: item[1].since
            )
            name = f"{key.purpose}/{key.epoch}/{key.prompt_id}"
            parts.append(f"{worker} runs {count} groups, the oldest ({name}) for {now - oldest.since:.0f} s")
        return "; ".join(parts) or "no group is on lease"
