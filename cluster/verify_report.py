"""What `rloop verify` says: tables for people, a line per response for programs."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.verification import GIVEN, GOLD, Judged, Verification
from rollout.storage import whole_file
from verifiers.records import VerdictStatus

_STATUSES: tuple[VerdictStatus, ...] = ("correct", "wrong", "timeout", "error")
_SHOWN = 5


def write_lines(judged: Iterator[Judged], out: Path) -> None:
    """One JSON line per response, whole or not at all."""
    with whole_file(out) as file:
        for one in judged:
            file.write(json.dumps(one.line(), ensure_ascii=False).encode() + b"\n")


def show(found: Verification, console: Console) -> None:
    """Statuses by kind, speed, the slowest, and what went otherwise than it should."""
    console.print(_statuses(found))
    console.print(_speed(found), highlight=False)
    odd = [one for one in found.judged if is_odd(one)]
    if odd:
        console.print(_rows(f"Otherwise than it should be ({len(odd):,})", odd[:_SHOWN]))
    slowest = sorted(found.judged, key=lambda one: -one.verdict.milliseconds)[:_SHOWN]
    console.print(_rows("Slowest", slowest))


def is_odd(one: Judged) -> bool:
    """A gold answer that is not correct, a trap that is, or no verdict."""
    if one.asked.kind == GIVEN:
        return not one.verdict.scored
    return (one.verdict.status == "correct") != (one.asked.kind == GOLD)


def _statuses(found: Verification) -> Table:
    drawn = Table(title="Verdicts", title_justify="left")
    for name in ("responses", *_STATUSES, "accepted", "mean reward"):
        drawn.add_column(name, justify="left" if name == "responses" else "right")
    for kind in found.kinds():
        verdicts = [one.verdict for one in found.of(kind)]
        counts = Counter(verdict.status for verdict in verdicts)
        rewards = [verdict.reward for verdict in verdicts if verdict.reward is not None]
        mean = f"{np.mean(rewards):.3f}" if rewards else "-"
        share = f"{counts['correct'] / len(verdicts):.2%}"
        drawn.add_row(kind, *(f"{counts[status]:,}" for status in _STATUSES), share, mean)
    return drawn


def _speed(found: Verification) -> str:
    times = [one.verdict.milliseconds for one in found.judged]
    half, most = np.percentile(times, 50), np.percentile(times, 99)
    rate, differing = len(times) / max(found.seconds, 1e-9), len(found.disagreements)
    return (
        f"{len(times):,} verdicts in {found.seconds:.1f} s ({rate:,.0f}/s), p50 {half:.1f} ms, p99 {most:.1f} ms; "
        f"judged again: {found.rechecked:,}, of these with another verdict: {differing:,}"
    )


def _rows(title: str, rows: list[Judged]) -> Table:
    drawn = Table(title=title, title_justify="left")
    for name in ("row", "response", "status", "ms", "read as", "expected", "why"):
        drawn.add_column(name)
    for one in rows:
        v = one.verdict
        cells = (one.asked.id, one.asked.kind, v.status, f"{v.milliseconds:.1f}", v.answer[:30], v.expected[:30])
        drawn.add_row(*map(Text, (*cells, (v.feedback or v.rule)[:60])))
    return drawn
