"""What a run came to: the table of evaluations (terminal and Markdown), what lies where, and what to do next."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from actors.records import EvalRow, RunStatus
from cluster.invocation import rloop
from cluster.rundir import RunDir
from cluster.view import pass_keys


def rows(evals: tuple[EvalRow, ...]) -> tuple[list[str], list[list[str]]]:
    """Header and cells: one row per evaluated policy, each score with its change against the first row."""
    keys = pass_keys(evals)
    cells = []
    for row in evals:
        cells.append([row.after, row.weights, *(_cell(key, row, evals[0]) for key in keys)])
    return ["policy", "weights", *keys], cells


def _cell(key: str, row: EvalRow, base: EvalRow) -> str:
    if key not in row.metrics:
        return "-"
    score = f"{row.metrics[key]:.3f}"
    return score if row is base or key not in base.metrics else f"{score} ({row.metrics[key] - base.metrics[key]:+.3f})"


def table(evals: tuple[EvalRow, ...]) -> Table:
    """The evaluations for a terminal."""
    header, cells = rows(evals)
    drawn = Table(title=_title(evals), title_justify="left", title_style="dim")
    for i, name in enumerate(header):
        drawn.add_column(name, justify="right" if i > 1 else "left", no_wrap=i > 1)
    for row in cells:
        drawn.add_row(*row)
    return drawn


def markdown(evals: tuple[EvalRow, ...]) -> str:
    """The evaluations for a README."""
    header, cells = rows(evals)
    rule = ["---", "---", *("---:" for _ in header[2:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *cells))


def _title(evals: tuple[EvalRow, ...]) -> str:
    last = evals[-1]
    return f"{last.num_problems} held-out problems × {last.num_samples} answers (change against the first row)"


def report(status: RunStatus, run: RunDir, console: Console) -> None:
    """The end of a run: table, run directory, next commands."""
    if status.evals:
        console.print(table(status.evals))
    if status.state == "interrupted":
        console.print(f"\nInterrupted ({status.message}){_where(status)}", highlight=False, markup=False)
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
    if model := run.final_model(status):
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
