"""The live view: draws `RunStatus` pictures. Asks nobody, decides nothing.

On a terminal it is one panel that is redrawn; elsewhere a line per change of phase and one every ten seconds. What
explains a stall is printed above it, in full: nobody who looks on reads a file meanwhile.
"""

import logging
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from actors.records import EvalRow, RunStatus
from cluster import stalls

_PHASES = {
    "warmup": "warm-up",
    "rl": "RL",
    "sample": "sampling",
    "rft": "RFT",
    "merge": "merging",
    "eval": "evaluation",
    None: "starting",
}
LINE_EVERY_S = 10.0


class _Printer(logging.Handler):
    """Prints what a logger says."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(record.getMessage(), highlight=False, soft_wrap=True, markup=False)


class LiveView(AbstractContextManager["LiveView"]):
    """Shows pictures as they come; leaves the terminal as it was."""

    def __init__(self, name: str, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._console = console
        self._clock = clock
        self._explanations = _Printer(console)
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._last: tuple[object, ...] = ()
        self._printed_at = 0.0

    def __enter__(self) -> "LiveView":
        stalls.logger.addHandler(self._explanations)
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stalls.logger.removeHandler(self._explanations)
        if self._live:
            self._live.stop()

    def show(self, status: RunStatus) -> None:
        """Draw one picture."""
        if self._live:
            self._live.update(panel(self._name, status), refresh=True)
            return
        now, key = self._clock(), (status.state, status.phase, status.iteration, len(status.evals), status.message)
        if key != self._last or now - self._printed_at >= LINE_EVERY_S:
            self._console.print(line(status), highlight=False, soft_wrap=True, markup=False)
            self._last, self._printed_at = key, now


def panel(name: str, status: RunStatus) -> RenderableType:
    """The picture as a panel of a few lines."""
    head = Table.grid(padding=(0, 2), expand=False)
    bar = ProgressBar(total=max(status.steps, 1), completed=status.step, width=30)
    head.add_row(Text(_phase(status), style="bold"), bar, _steps(status), _left(status))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column()
    for label, text in _facts(status):
        facts.add_row(label, Text(text))
    return Panel(Group(head, facts), title=f"rloop · {name} · {status.state}", title_align="left", border_style="cyan")


def line(status: RunStatus) -> str:
    """The picture as one line."""
    facts = [f"{label} {text}" for label, text in _facts(status)]
    return " | ".join(
        part for part in (f"{_clock(status.elapsed_s)} {_phase(status)} {_steps(status)}".strip(), *facts) if part
    )


def _phase(status: RunStatus) -> str:
    name = _PHASES[status.phase]
    if status.iterations and status.phase not in ("warmup", None):  # none in an evaluation by itself
        return f"iteration {status.iteration + 1}/{status.iterations} {name}"
    return name


def _steps(status: RunStatus) -> str:
    unit = "group" if status.phase == "sample" else "step"
    return f"{unit} {status.step}/{status.steps}" if status.steps else ""


def _left(status: RunStatus) -> str:
    gone = f"{_clock(status.elapsed_s)} gone"
    if status.remaining_s is not None:
        return f"{gone}, about {_clock(status.remaining_s)} left"
    if status.phase_remaining_s is not None:
        return f"{gone}, about {_clock(status.phase_remaining_s)} left in this phase"
    return gone


def _facts(status: RunStatus) -> list[tuple[str, str]]:
    """(label, text) of what there is to say now; empty facts are left out."""
    metrics, buffer = status.metrics, status.buffer
    learning = [
        f"{label} {metrics[key]:{form}}"
        for key, label, form in (
            ("reward", "reward", ".3f"),
            ("loss", "loss", ".4f"),
            ("entropy", "entropy", ".2f"),
            ("staleness_mean", "staleness", ".2f"),
            ("truncated_frac", "truncated", ".0%"),
        )
        if key in metrics
    ]
    speed = [
        f"{label} {metrics[key]:,.0f}"
        for key, label in (("generate_tokens_per_s", "generate"), ("train_tokens_per_s", "train"))
        if key in metrics
    ]
    dropped = ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in sorted(buffer.dropped.items()) if n)
    facts = {
        "learning": ", ".join(learning),
        "tokens/s": ", ".join(speed),
        "groups": f"{buffer.running} running, {buffer.ready} ready, {buffer.finished} finished"
        if status.phase in ("rl", "sample")
        else "",
        "dropped": dropped,
        "held out": _last_eval(status.evals),
        "workers": _staff(status),
        "weights": f"version {status.version}" if status.version else "",
        "waits for": status.waiting,
        "note": status.message,
    }
    return [(label, text) for label, text in facts.items() if text]


def _staff(status: RunStatus) -> str:
    """Who is missing, or on the way out."""
    wanted = status.staff_wanted
    return ", ".join(f"{n} of {wanted[role]} {role}" for role, n in status.staff.items() if n != wanted.get(role, n))


def _last_eval(evals: tuple[EvalRow, ...]) -> str:
    if not evals:
        return ""
    row = evals[-1]
    scores = ", ".join(f"{key} {row.metrics[key]:.3f}" for key in pass_keys(evals) if key in row.metrics)
    return f"{scores} ({row.after})"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def pass_keys(evals: tuple[EvalRow, ...]) -> list[str]:
    """`pass@1`, `pass@8`… as they occur, smallest k first; intervals and single held-out sets left out."""
    keys = {key for row in evals for key in row.metrics if re.fullmatch(r"pass@\d+", key)}
    return sorted(keys, key=lambda key: int(key.removeprefix("pass@")))
