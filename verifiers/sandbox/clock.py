"""Time that counts against a jailed process: neither what this side misses nor what the machine keeps from it.

Both are the machine's doing. A program has no say in the first, and the second never grows by its own work.
"""

import time
from typing import NamedTuple

SLICE_S = 0.02
"""Whoever waits does so in pieces of this many seconds, so that a longer absence shows."""
_ROUNDING_S = 0.002  # what the kernel may add to a wait
_TICKS = 100  # a second, of /proc/PID/stat
_MARK_S = 0.25  # many ticks


class Clock:
    """Seconds, without those in which this thread was stopped, or ready to run and without a processor.

    What passes between two looks at it is either a wait, of at most so long, or work, as the kernel counts it; the
    rest was missed.
    """

    def __init__(self) -> None:
        self._wall, self._work, self._missed = time.monotonic(), time.thread_time(), 0.0

    def now(self, waited_s: float = 0.0) -> float:
        """The time. `waited_s`: how long the caller was willing to wait since the last look."""
        wall, work = time.monotonic(), time.thread_time()
        missed = wall - self._wall - (work - self._work) - waited_s - _ROUNDING_S
        self._wall, self._work = wall, work
        self._missed += max(0.0, missed)
        return wall - self._missed


class Stopwatch:
    """How long a jailed process was at work, and how much of it was no fault of its own."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Begin anew, from nothing."""
        self._before, self._since = 0.0, self._clock.now()
        self._running, self._looked = True, 0.0
        self.used_s = 0.0
        """Processor time of all its threads since its start, as of the last look."""
        self._mark = _Account(0.0, 0.0, 0.0)
        self._kept_before = self._kept = 0.0  # seconds in which others had the processors, up to the mark and in all

    def go(self) -> None:
        """It is asked something. Nothing changes when it was at work already."""
        if not self._running:
            self._since, self._running = self._clock.now(), True

    def stop(self) -> None:
        """It is asked nothing, or it is gone."""
        self._before, self._running = self.working_s, False

    @property
    def working_s(self) -> float:
        """Seconds at work so far, waiting for a processor included."""
        return self._before + (self._clock.now() - self._since if self._running else 0.0)

    @property
    def own_s(self) -> float:
        """Seconds at work without those in which others had the processors, as far as `look` was called."""
        return max(0.0, self.working_s - self._kept)

    def look(self, pidfd: int, now: bool = False) -> None:
        """See how long it has been waiting for a processor; at most once in a slice unless it must be now.

        A process that fills the processors with threads of its own starves itself: only what its own processor time
        leaves of the time at work, from mark to mark, can be the doing of others.
        """
        working, mark = self.working_s, self._mark
        if not now and working - self._looked < SLICE_S:
            return
        self._looked = working
        account = _account(pidfd, working)
        if account is not None:
            self.used_s = account.used
            left = (working - mark.working) - (account.used - mark.used)
            self._kept = self._kept_before + max(0.0, min(account.waited - mark.waited, left))
            if working - mark.working >= _MARK_S:
                self._mark, self._kept_before = account, self._kept


class _Account(NamedTuple):
    """What a process did with its time, in seconds since its start."""

    working: float
    """At work, as the stopwatch has it."""
    waited: float
    """Ready to run, and without a processor; its main thread."""
    used: float
    """Of processor time; all its threads."""


def _account(pidfd: int, working: float) -> _Account | None:
    """A process's account; None when the kernel does not say, as of one that is gone."""
    try:
        with open(f"/proc/self/fdinfo/{pidfd}") as file:
            pid = next(line.split()[1] for line in file if line.startswith("Pid:"))
        with open(f"/proc/{pid}/schedstat") as file:
            waited = int(file.read().split()[1]) / 1e9
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return _Account(working, waited, (int(fields[11]) + int(fields[12])) / _TICKS)
    except (OSError, StopIteration, ValueError, IndexError):
        return None
