"""What a sink is given, and what it is."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

_NO_METRICS = ("time", "phase", "incarnation", "iteration", "step", "version", "again")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `metrics.jsonl`."""

    time: float
    """Seconds since 1970."""
    version: int
    """Of the policy: grows through the whole run, also where steps count from 1 again."""
    numbers: Mapping[str, float]
    """By `kind/name`, e.g. `rl/reward`, `eval/pass@1`; finite."""

    @classmethod
    def read(cls, line: str, newest: int) -> "Row":
        """A line as it stands in the file. `newest`: the version of the line before, for lines that have none."""
        said: dict[str, Any] = json.loads(line)
        return cls(
            said["time"],
            said.get("version", newest),
            {
                f"{said['phase']}/{name}": float(value)
                for name, value in said.items()
                if name not in _NO_METRICS and isinstance(value, int | float) and math.isfinite(value)
            },
        )


class Sink(Protocol):
    """Takes the numbers of a run. It may raise and may block: it has a thread of its own, and nobody waits for it."""

    def put(self, row: Row) -> None:
        """The next line."""
        ...

    def close(self) -> None:
        """The run is over; what is buffered is to be written now."""
        ...


@dataclass(frozen=True, slots=True)
class SinkPlace:
    """What a sink is made with."""

    run_dir: Path
    name: str
    """Of the run."""
    config: Mapping[str, Any]
    """Every setting of the run by its dotted key."""
    project: str
    """What runs are grouped by, where a service does that."""
