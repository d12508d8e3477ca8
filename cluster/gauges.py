"""What a run shows to Prometheus: names, meanings, and where in a picture of the run each value stands.

Ray puts `ray_` before every name and serves them on each node's metrics port. It forgets a value that is not set again
within about twenty seconds, so pictures are shown again and again also while nothing happens.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, get_args

from actors.records import PhaseKind, RunState, RunStatus

EVERY_S = 2.0
Values = Mapping[str, float]
"""By the value of the gauge's own label; under the empty name where it has none."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """One metric."""

    name: str
    help: str
    values: Callable[[RunStatus], Values]
    label: str = ""
    """Its own label, beside `run`."""


class Board(Protocol):
    """Where gauges are set; `actors.ray_app.Gauges` is one."""

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Set a metric that the board was made with."""
        ...


def _field(name: str, text: str, of: Callable[[RunStatus], float | None]) -> Gauge:
    def values(status: RunStatus) -> Values:
        value = of(status)
        return {} if value is None else {"": float(value)}

    return Gauge(f"rloop_{name}", text, values)


def _metric(name: str, text: str, key: str = "") -> Gauge:
    """The newest value of one metric of `metrics.jsonl`."""
    return _field(name, text, lambda status: status.metrics.get(key or name))


def _speeds(status: RunStatus) -> Values:
    keys = {"rollout": "generate_tokens_per_s", "learner": "train_tokens_per_s"}
    return {role: status.metrics[key] for role, key in keys.items() if key in status.metrics}


def _failed(status: RunStatus) -> Values:
    return {kind: status.metrics[key] for kind in ("timeout", "error") if (key := f"{kind}_frac") in status.metrics}


def _ages(status: RunStatus) -> Values:
    prefix = "staleness_frac_"
    return {name.removeprefix(prefix): share for name, share in status.metrics.items() if name.startswith(prefix)}


def _requests(status: RunStatus) -> Values:
    return {"running": status.engines["requests"], "slots": status.engines["slots"]} if status.engines else {}


def _pause(status: RunStatus) -> float | None:
    return status.engines.get("pause_s")


def _lost(status: RunStatus) -> float | None:
    return status.buffer.dropped_tokens / status.buffer.tokens if status.buffer.tokens else None


def _groups(status: RunStatus) -> Values:
    buffer = status.buffer
    return {
        "running": buffer.running,
        "ready": buffer.ready,
        "finished": buffer.finished,
        "unfinished": buffer.unfinished,
        "admissible": buffer.capacity,
    }


def _held_out(status: RunStatus) -> Values:
    """Scores of the newest evaluation; intervals, and what is no accuracy, stay in the files."""
    if not status.evals:
        return {}
    return {name: value for name, value in status.evals[-1].metrics.items() if name.rpartition("@")[2].isdigit()}


GAUGES = (
    Gauge("rloop_state", "1 for the state that the run is in", lambda s: _one_of(RunState, s.state), "state"),
    Gauge("rloop_phase", "1 for the phase that the run is in", lambda s: _one_of(PhaseKind, s.phase), "phase"),
    _field("iteration", "iteration of the schedule, from 1", lambda s: s.iteration + 1),
    _field("step", "steps done in this phase", lambda s: s.step),
    _field("steps", "steps of this phase", lambda s: s.steps),
    _field("version", "newest version of the policy", lambda s: s.version),
    _field("elapsed_seconds", "since the command was given", lambda s: s.elapsed_s),
    _field("remaining_seconds", "estimate of the time left", lambda s: s.remaining_s),
    _metric("reward", "mean reward of the answers of the newest step"),
    _metric("reward_generated", "mean reward of all that was generated, also of what was dropped"),
    _metric("correct_frac", "share of correct answers"),
    _metric("truncated_frac", "share of answers that were cut off at the length limit"),
    Gauge("rloop_failed_frac", "share of answers without a verdict", _failed, "status"),
    Gauge("rloop_held_out", "accuracy of the newest evaluation, e.g. pass@1, 4 numbers/maj@8", _held_out, "metric"),
    _metric("response_tokens_mean", "length of an answer", "response_len_mean"),
    _metric("response_tokens_max", "length of the longest answer of the step", "response_len_max"),
    Gauge("rloop_tokens_per_second", "generated and trained tokens", _speeds, "role"),
    Gauge("rloop_workers", "rollout workers and verifier pools that are up", lambda s: s.staff, "role"),
    Gauge("rloop_workers_wanted", "as many there shall be, as there is room", lambda s: s.staff_wanted, "role"),
    Gauge(
        "rloop_requests",
        "requests that engines have, queued ones too, and how many they work on",
        _requests,
        "state",
    ),
    Gauge("rloop_groups", "groups of answers in the buffer; finished: of this phase", _groups, "state"),
    Gauge("rloop_dropped_groups", "not trained in this phase, by reason", lambda s: s.buffer.dropped, "reason"),
    _field("lost_tokens_frac", "share of finished answers' tokens that were dropped, since the buffer came up", _lost),
    _field("expired_leases", "leases not renewed in time, since the buffer came up", lambda s: s.buffer.expired),
    _field("refused_deliveries", "late or double, since the buffer came up", lambda s: s.buffer.refused),
    _metric("staleness_mean", "versions between sampling and training of a token"),
    _metric("staleness_max", "the same, of the oldest trained token"),
    Gauge("rloop_staleness_frac", "shares of trained tokens by age in versions", _ages, "age"),
    _metric("mismatch_kl", "KL between engine and learner over the tokens of a step"),
    _metric("ess_frac", "effective sample size of the importance weights, as a share"),
    _metric("clip_frac", "share of clipped tokens"),
    _metric("loss", "training loss of the newest step"),
    _metric("entropy", "mean entropy of a sampled token, nats"),
    _metric("grad_norm", "norm of the gradient before clipping"),
    _metric("learning_rate", "of the newest step", "lr"),
    _metric("verdict_milliseconds_mean", "time that a verdict takes", "verdict_ms_mean"),
    _metric("verdict_milliseconds_max", "the same, of the slowest of the step", "verdict_ms_max"),
    _metric("wait_batch_seconds", "the learner waited so long for answers", "wait_batch_s"),
    _metric("wait_sync_seconds", "the learner waited so long for engines to take weights", "wait_sync_s"),
    _field("sync_pause_seconds", "requests waited at most so long for the last weights", _pause),
    _metric("sync_seconds", "until all engines ran on the newest version", "sync_s"),
    _metric("probe_max_diff", "largest log-prob difference of the probe after the last transfer"),
    _metric("forgetting", "share of problems once solved in this phase and now failed"),
    _metric("inter_step_diversity", "how unlike the answers of two visits to a problem are"),
    _metric("learner_memory_gib", "memory of a learner rank"),
)


def _one_of(kinds: object, current: str | None) -> Values:
    return {kind: float(kind == current) for kind in get_args(kinds)}


def table() -> str:
    """Every gauge as a row of a Markdown table."""
    rows = [f"| `ray_{gauge.name}` | {gauge.label} | {gauge.help} |" for gauge in GAUGES]
    return "\n".join(["| name | label | meaning |", "|---|---|---|", *rows])


class Exporter:
    """Shows pictures of a run on a board, at most every two seconds."""

    def __init__(self, board: Board, run: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._board, self._run, self._clock = board, run, clock
        self._next = float("-inf")
        self._shown: dict[str, set[str]] = {}

    def show(self, status: RunStatus) -> None:
        """Set every gauge that has a value, or had one: a label without one now goes to 0, a gauge to NaN."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + EVERY_S
        for gauge in GAUGES:
            values = gauge.values(status)
            shown = self._shown.setdefault(gauge.name, set())
            shown.update(values)
            for label in shown:
                own = {gauge.label: label} if gauge.label else {}
                self._board.set(gauge.name, values.get(label, 0.0 if own else math.nan), {"run": self._run, **own})
