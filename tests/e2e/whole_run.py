"""Whole runs through the command line, each in a directory of its own."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class FinishedRun:
    """What a run left behind."""

    root: Path

    @property
    def manifest(self) -> dict:
        return json.loads((self.root / "manifest.json").read_text())

    @property
    def metrics(self) -> list[dict]:
        return [json.loads(line) for line in (self.root / "metrics.jsonl").read_text().splitlines()]

    def steps(self, phase: str) -> list[dict]:
        return [row for row in self.metrics if row["phase"] == phase]

    def evaluation(self, weights: str) -> dict[str, float]:
        return next(row for row in self.manifest["evals"] if row["weights"] == weights)["metrics"]

    def experts(self, iteration: int) -> dict[str, list]:
        return pq.read_table(self.root / "experts" / f"iteration-{iteration}.parquet").to_pydict()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cluster", *arguments]


def rloop(*arguments: str, timeout: float = 600, expect: int = 0) -> str:
    """Run `rloop …` in the repository; returns what it printed."""
    done = subprocess.run(
        command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )
    assert done.returncode == expect, done.stdout[-6000:]
    return done.stdout
