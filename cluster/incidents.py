"""What broke in a run, and what was done: one line in the log and one row of `incidents.jsonl` each, and a budget.

The budget is for failures of processes. Failures of data (an answer without a verdict, a group that fails again and
again) have their own, in the ledger.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

logger = logging.getLogger(__name__)


class GivenUp(RuntimeError):
    """The run is not kept up any longer. The message says what happened; the run can be resumed."""


@dataclass(slots=True)
class Incident:
    """One failure."""

    time: float
    """Seconds since the epoch."""
    victim: str
    noticed: str
    """How it was noticed."""
    action: str
    """What was done."""
    recovered_s: float | None = None
    """Seconds until the run progressed again; None when it did not."""


class Incidents:
    """The failures of one run."""

    def __init__(
        self,
        path: Path,
        budget: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._budget = budget
        self._clock = clock
        self._wall = wall
        self._all: list[Incident] = []
        self._open: list[tuple[Incident, float]] = []  # with the moment they were noticed
        self._mended: set[int] = set()
        self.latest = ""
        """The last one, for people."""

    def begin(self, victim: str, noticed: str, action: str) -> Incident:
        """Something broke, and something will be done about it.

        Raises:
            GivenUp: When the budget is spent.
        """
        incident = Incident(self._wall(), victim, _one_line(noticed), action)
        self._all.append(incident)
        if len(self._all) > self._budget:
            incident.action = "the run ends"
            self._write(incident)
            raise GivenUp(self._sentence())
        self._open.append((incident, self._clock()))
        self.latest = f"{victim}: {incident.noticed}; {action}"
        logger.warning("%s (failure %d of at most %d)", self.latest, len(self._all), self._budget)
        return incident

    def mended(self, incident: Incident) -> None:
        """What was done about it is done; now the run has to progress."""
        self._mended.add(id(incident))

    def progressed(self) -> None:
        """The run progresses: mended incidents are over."""
        now = self._clock()
        for incident, noticed_at in self._open:
            if id(incident) in self._mended:
                incident.recovered_s = round(now - noticed_at, 1)
                logger.info("%s: the run goes on after %.1f s", incident.victim, incident.recovered_s)
                self._write(incident)
        self._open = [(incident, at) for incident, at in self._open if id(incident) not in self._mended]

    def close(self) -> None:
        """The run ends: what is still open is written as it is."""
        for incident, _ in self._open:
            self._write(incident)
        self._open = []

    def _write(self, incident: Incident) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(incident)) + "\n")

    def _sentence(self) -> str:
        told = "; ".join(
            f"{time.strftime('%H:%M:%S', time.localtime(one.time))} {one.victim}: {one.noticed}" for one in self._all
        )
        return (
            f"{len(self._all)} process failures, actors.restarts allows {self._budget}: {told}. Mend the cause (each "
            "process has a log in logs/), then go on with rloop resume"
        )


def _one_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:200] if lines else "no reason known"
