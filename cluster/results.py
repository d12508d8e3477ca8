"""What a run came to: the tables of evaluations (terminal and Markdown), what lies where, and what to do next."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from actors.records import EvalRow, RunStatus, best
from cluster.invocation import rloop
from cluster.rundir import RunDir
from cluster.view import pass_keys
from rollout.evaluation import HIGH, LOW, by_set


@dataclass(frozen=True, slots=True)
class Grid:
    """A table before it is drawn."""

    title: str
    header: list[str]
    rows: list[list[str]]
    """One per evaluated policy."""


def grids(evals: tuple[EvalRow, ...]) -> list[Grid]:
    """The evaluations over all held-out problems; and by set, where there is more than one."""
    return [_overall(evals), *_of_sets(evals)]


def _overall(evals: tuple[EvalRow, ...]) -> Grid:
    """Every k, with half of its interval and the change against the first row."""
    keys, base, last = pass_keys(evals), evals[0], evals[-1]
    title = (
        f"{last.num_problems} held-out problems × {last.num_samples} answers "
        "(± half of a 95 % interval, change against the first row)"
    )
    rows = [[row.after, row.weights, *(_compared(row, base, key) for key in keys)] for row in evals]
    return Grid(title, ["policy", "weights", *keys], rows)


def _of_sets(evals: tuple[EvalRow, ...]) -> list[Grid]:
    """One column per set, with the smallest and the largest k; nothing when all problems are one set."""
    parted = [by_set(row.metrics) for row in evals]
    tags = sorted({tag for sets in parted for tag in sets if tag})
    keys = pass_keys(evals)
    if len(tags) < 2 or not keys:
        return []
    ends = list(dict.fromkeys((keys[0], keys[-1])))
    rows = [
        [row.after, row.weights, *(" / ".join(score(sets.get(tag, {}), key) for key in ends) for tag in tags)]
        for row, sets in zip(evals, parted, strict=True)
    ]
    return [Grid(f"{' / '.join(ends)} of each held-out set", ["policy", "weights", *tags], rows)]


def score(metrics: Mapping[str, float], key: str) -> str:
    """`0.412`, or a dash for what could not be estimated."""
    return f"{metrics[key]:.3f}" if key in metrics else "-"


def estimate(metrics: Mapping[str, float], key: str) -> str:
    """A score with half of its interval, `0.412 ±0.031`."""
    half = f" ±{(metrics[key + HIGH] - metrics[key + LOW]) / 2:.3f}" if key + LOW in metrics else ""
    return score(metrics, key) + half


def _compared(row: EvalRow, base: EvalRow, key: str) -> str:
    if row is base or key not in row.metrics or key not in base.metrics:
        return estimate(row.metrics, key)
    return f"{estimate(row.metrics, key)} ({row.metrics[key] - base.metrics[key]:+.3f})"


def table(grid: Grid) -> Table:
    """For a terminal; in a narrow one cells are broken where they have a space."""
    drawn = Table(title=grid.title, title_justify="left", title_style="dim")
    for i, name in enumerate(grid.header):
        drawn.add_column(name, justify="right" if i > 1 else "left")
    for row in grid.rows:
        drawn.add_row(*row)
    return drawn


def markdown(evals: tuple[EvalRow, ...]) -> str:
    """The evaluations for a README."""
    return "\n\n".join(_in_markdown(grid) for grid in grids(evals))


def _in_markdown(grid: Grid) -> str:
    rule = ["---", "---", *("---:" for _ in grid.header[2:])]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in (grid.header, rule, *grid.rows))
    return f"{grid.title}\n\n{lines}"


def report(status: RunStatus, run: RunDir, best_by: str, console: Console) -> None:
    """The end of a run: tables, the best policy by a metric, run directory, next commands."""
    for grid in grids(status.evals) if status.evals else ():
        console.print(table(grid))
    if top := best(status.evals, best_by):
        said = f"Best by {best_by}: {top.weights} ({estimate(top.metrics, best_by)}, {top.after})"
        console.print(said, highlight=False, markup=False)
    if status.state == "interrupted":
        console.print(f"\nInterrupted ({status.message}){_where(status)}", highlight=False, markup=False)
    if status.state == "finished" and status.message:
        console.print(f"\nNothing is left to do: {status.message}.", highlight=False, markup=False, soft_wrap=True)
    console.print(f"\nRun directory: {run.root}", highlight=False, soft_wrap=True, markup=False)
    for path, what in run.contents():
        console.print(f"  {Path(path).name:<14} {what}", highlight=False, soft_wrap=True, markup=False)
    console.print("\nNext:", highlight=False)
    for what, command in next_commands(status, run):
        console.print(f"  {what}\n    {command}", highlight=False, soft_wrap=True, markup=False)


def _where(status: RunStatus) -> str:
    if not status.steps:
        return "; nothing that was committed is lost."
    return f" in iteration {status.iteration + 1}, {status.phase}, with step {status.step} of {status.steps} committed."


def next_commands(status: RunStatus, run: RunDir) -> list[tuple[str, str]]:
    """(what for, command) of what a person would do now."""
    if status.state != "finished":
        return [("go on where it stopped", f"{rloop()} resume {run.root}")]
    more = [
        ("train further iterations", f"{rloop()} resume {run.root} schedule.iterations={status.iterations + 2}"),
        ("see where every answer went", f"{rloop()} audit {run.root}"),
    ]
    if status.evals and (model := run.model(status.evals[-1])):
        evaluate = (
            "evaluate the final weights again, with more answers",
            f"{rloop()} eval {model} {run.config} eval.samples=64",
        )
        load = [
            ("load them in transformers", f"AutoModelForCausalLM.from_pretrained({str(model)!r})"),
            ("load them in vLLM", f"vllm.LLM({str(model)!r}, enforce_eager=True, kv_cache_memory_bytes=1 << 28)"),
        ]
        return [evaluate, *more, *load]
    return more
