"""What became of each part, as a table for people, as JSON for programs, and as an exit code. It runs nothing."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table

Status = Literal["pass", "FAIL", "skipped"]
_STYLE = {"pass": "green", "FAIL": "bold red", "skipped": "yellow"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The line of one part."""

    part: str
    status: Status
    seconds: float
    figure: str
    """What was measured; of a failure what is wrong, of a skipped part why."""


def table(device: str, outcomes: Sequence[Outcome]) -> Table:
    """A line per part."""
    made = Table("part", "", "s", "figure", title=f"RLoop on {device}", title_justify="left")
    made.columns[2].justify = "right"
    for one in outcomes:
        status = f"[{_STYLE[one.status]}]{one.status}"
        made.add_row(one.part, status, f"{one.seconds:.0f}", one.figure.replace("[", r"\["))
    return made


def verdict(outcomes: Sequence[Outcome]) -> str:
    """All of it in a sentence; what was skipped is not called good."""
    count = {status: sum(one.status == status for one in outcomes) for status in _STYLE}
    return f"{count['pass']} passed, {count['FAIL']} failed, {count['skipped']} skipped: not tried here."


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 when nothing failed."""
    return int(any(one.status == "FAIL" for one in outcomes))


def write_json(file: Path, device: str, outcomes: Sequence[Outcome]) -> None:
    """The same lines for a program."""
    file.write_text(json.dumps({"device": device, "parts": [asdict(one) for one in outcomes]}, indent=2) + "\n")
