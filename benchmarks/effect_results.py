"""Finished runs of `rloop_effect.py` in a file, a line each: whoever has it need not run them again."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from effect_runs import Policy, Run

_DIGITS = 6


class Results:
    """The file. What was run under other settings is another run."""

    def __init__(self, file: Path, settings: Sequence[str]) -> None:
        self._file, self._settings = file, list(settings)
        self._runs: dict[tuple[str, int], Run] = {}
        for line in file.read_text().splitlines() if file.exists() else ():
            row = json.loads(line)
            if row.pop("settings") == self._settings:
                found = Run(**{**row, "policies": tuple(Policy(**policy) for policy in row["policies"])})
                self._runs[found.method, found.seed] = found

    def find(self, method: str, seed: int) -> Run | None:
        """The run, when it is there."""
        return self._runs.get((method, seed))

    def add(self, run: Run) -> None:
        """Write a finished run to the end of the file."""
        self._runs[run.method, run.seed] = run
        row = asdict(run)
        for policy in row["policies"]:
            policy["metrics"] = {name: round(value, _DIGITS) for name, value in policy["metrics"].items()}
        with self._file.open("a") as file:
            file.write(json.dumps({"settings": self._settings, **row}) + "\n")
