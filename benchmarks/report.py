"""What every benchmark prints and writes: rows of numbers, one table, one JSON file. It measures nothing."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number."""

    name: str
    value: float
    unit: str
    aim: float | None = None
    """What it should reach; None for a number that only informs."""
    better: Literal["higher", "lower"] = "higher"

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached; None without one."""
        if self.aim is None:
            return None
        return self.value >= self.aim if self.better == "higher" else self.value <= self.aim


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks share: `--json FILE` and `--quick`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--quick", action="store_true", help="a smaller run, under a minute")
    return parser


def report(title: str, rows: Sequence[Row], json_file: Path | None = None, console: Console | None = None) -> None:
    """Print the table; write the rows to `json_file` when it is given."""
    (console or Console()).print(table(title, rows))
    if json_file:
        json_file.write_text(json.dumps({"rows": [as_dict(row) for row in rows]}, indent=2) + "\n")


def as_dict(row: Row) -> dict[str, str | float]:
    """The row as it goes into the file: without `aim` when there is none."""
    aim = {} if row.aim is None else {"aim": row.aim}
    return {"name": row.name, "value": row.value, "unit": row.unit, **aim, "better": row.better}


def table(title: str, rows: Sequence[Row]) -> Table:
    """A table with a line per row; a missed aim is marked in words."""
    made = Table(title=title)
    made.add_column("what")
    for column in ("value", "unit", "aim"):
        made.add_column(column, justify="right" if column == "value" else "left", no_wrap=True)
    for row in rows:
        made.add_row(row.name, number(row.value), row.unit, _aim(row))
    return made


def number(value: float) -> str:
    """Three significant digits, and whole numbers from 100 on: `0.0123`, `1.2`, `4,567`."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _aim(row: Row) -> str:
    if row.aim is None:
        return ""
    sign = "≥" if row.better == "higher" else "≤"
    return f"{sign} {number(row.aim)}{'' if row.met else '  missed'}"
