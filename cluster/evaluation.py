"""What `rloop eval` prints and writes: every metric of every held-out set, with its interval."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from actors.records import EvalRow
from cluster.results import estimate
from rollout.evaluation import LOW, by_set
from rollout.records import EvalCounts

if TYPE_CHECKING:
    from cluster.config import RunConfig


def table(row: EvalRow) -> Table:
    """Metrics downwards, held-out sets across; all problems together first where there is more than one set."""
    of_all, sets = _parted(row)
    columns = {"all": of_all, **sets} if len(sets) != 1 else sets
    drawn = Table(title=f"{row.weights} × {row.num_samples} answers (± half of a 95 % interval)", title_justify="left")
    drawn.add_column("", no_wrap=True)
    for name in columns:
        drawn.add_column(name, justify="right")
    drawn.add_row("problems", *(f"{metrics['problems']:.0f}" for metrics in columns.values()))
    for name in (name for name in of_all if name + LOW in of_all):
        drawn.add_row(name, *(estimate(metrics, name) for metrics in columns.values()))
    drawn.add_row("tokens per answer", *(f"{metrics['response_len_mean']:.1f}" for metrics in columns.values()))
    drawn.add_row("truncated", *(f"{metrics['truncated_frac']:.1%}" for metrics in columns.values()))
    drawn.add_row("without verdict", *(f"{metrics['failed_frac']:.1%}" for metrics in columns.values()))
    return drawn


def write(file: Path, config: "RunConfig", row: EvalRow, counts: Sequence[EvalCounts]) -> None:
    """All of it as JSON: what was evaluated and how, metrics of all problems and of each set, counts per problem."""
    of_all, sets = _parted(row)
    content: dict[str, Any] = {
        "rloop": version("rloop"),
        "checkpoint": row.weights,
        "config": config.flat(),
        "all": of_all,
        "sets": sets,
        "problems": [asdict(problem) for problem in counts],
    }
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _parted(row: EvalRow) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """(metrics of all problems, metrics by set)."""
    sets = by_set(row.metrics)
    return sets.pop(""), sets
