"""Writes `rloop.json`, the Grafana dashboard, from the gauges that a run shows: python deploy/grafana/make_dashboard.py

The names, their labels and what each panel says of them come from `cluster.gauges`; here stands only what is beside
what, and in which unit. The lines in red are the defaults of the stability guard (`trainer.guard`).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.gauges import GAUGES, Gauge
from trainer.config import GuardConfig

FILE = Path(__file__).with_name("rloop.json")

Json = dict[str, Any]
_WIDTH = 24  # Grafana's grid
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_GAUGES = {gauge.name: gauge for gauge in GAUGES}
_GUARD = GuardConfig()


@dataclass(frozen=True, slots=True)
class Panel:
    """Gauges that are read together."""

    title: str
    gauges: tuple[str, ...]
    """Names without `rloop_`."""
    unit: str = "short"
    kind: str = "timeseries"
    at_most: float | None = None
    """Above it, a red line."""
    at_least: float | None = None
    """Below it, a red line."""
    width: int = 8


ROWS: dict[str, tuple[Panel, ...]] = {
    "Progress": (
        Panel("State", ("state",), kind="which", width=4),
        Panel("Phase", ("phase",), kind="which", width=4),
        Panel("Iteration", ("iteration",), "none", "stat", width=4),
        Panel("Step of the phase", ("step", "steps"), "none", "stat", width=4),
        Panel("Policy version", ("version",), "none", "stat", width=4),
        Panel("Time", ("elapsed_seconds", "remaining_seconds"), "s", "stat", width=4),
    ),
    "Rewards and held-out accuracy": (
        Panel("Reward", ("reward", "reward_generated")),
        Panel("Correct, and cut off", ("correct_frac", "truncated_frac"), "percentunit"),
        Panel("Forgetting", ("forgetting",), "percentunit"),
        Panel("Held-out accuracy", ("held_out",), "percentunit", width=16),  # for every set and k a line
        Panel("Diversity between steps", ("inter_step_diversity",)),
    ),
    "Throughput": (
        Panel("Tokens", ("tokens_per_second",), "cps"),
        Panel("Requests in the engines", ("requests",)),
        Panel("Workers", ("workers", "workers_wanted")),
        Panel("Length of an answer, tokens", ("response_tokens_mean", "response_tokens_max"), width=12),
        Panel("The learner waited", ("wait_batch_seconds", "wait_sync_seconds"), "s", width=12),
    ),
    "Staleness and off-policy": (
        Panel("Age of trained tokens, versions", ("staleness_mean", "staleness_max")),
        Panel("Shares by age", ("staleness_frac",), "percentunit", "stacked"),
        Panel("Mismatch of engine and learner", ("mismatch_kl",), at_most=_GUARD.mismatch_kl),
        Panel("Effective sample size", ("ess_frac",), "percentunit", at_least=_GUARD.ess_frac),
        Panel("Clipped tokens", ("clip_frac",), "percentunit", at_most=_GUARD.clip_frac),
        Panel("Weight sync", ("sync_seconds", "sync_pause_seconds"), "s", width=4),
        Panel("Probe after a sync", ("probe_max_diff",), width=4),
    ),
    "Verifiers": (
        Panel("Time of a verdict", ("verdict_milliseconds_mean", "verdict_milliseconds_max"), "ms", width=12),
        Panel("Answers without a verdict", ("failed_frac",), "percentunit", width=12),
    ),
    "Buffer": (
        Panel("Groups", ("groups",), width=6),
        Panel("Dropped groups", ("dropped_groups",), width=6),
        Panel("Tokens lost with them", ("lost_tokens_frac",), "percentunit", width=6),
        Panel("Leases and deliveries that came to nothing", ("expired_leases", "refused_deliveries"), width=6),
    ),
    "Learner": (
        Panel("Loss", ("loss",), width=5),
        Panel("Entropy, nats", ("entropy",), width=5),
        Panel("Gradient norm", ("grad_norm",), width=5),
        Panel("Learning rate", ("learning_rate",), "sci", width=5),
        Panel("Memory of a rank", ("learner_memory_gib",), "gbytes", width=4),
    ),
}


def dashboard() -> Json:
    """The whole dashboard."""
    return {
        "uid": "rloop",
        "title": "RLoop",
        "description": "Runs of RLoop, by name. Made by deploy/grafana/make_dashboard.py.",
        "tags": ["rloop", "ray"],
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": 39,
        "version": 1,
        "refresh": "10s",
        "timezone": "browser",
        "time": {"from": "now-6h", "to": "now"},
        "annotations": {"list": []},
        "templating": {"list": [_source_variable(), _run_variable()]},
        "panels": list(_panels()),
    }


def _panels() -> Iterator[Json]:
    number, top = 0, 0
    for title, panels in ROWS.items():
        number += 1
        place = {"x": 0, "y": top, "w": _WIDTH, "h": 1}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        top, left = top + 1, 0
        for panel in panels:
            height = 4 if panel.kind in ("stat", "which") else 8
            if left + panel.width > _WIDTH:
                top, left = top + height, 0
            number += 1
            place = {"x": left, "y": top, "w": panel.width, "h": height}
            yield {"id": number, "title": panel.title, "gridPos": place, **_drawn(panel)}
            left += panel.width
        top += height


def _drawn(panel: Panel) -> Json:
    gauges = [_GAUGES[f"rloop_{name}"] for name in panel.gauges]
    big = panel.kind in ("stat", "which")
    custom: Json = {"lineWidth": 2, "fillOpacity": 60 if panel.kind == "stacked" else 0, "showPoints": "auto"}
    if panel.kind == "stacked":
        custom["stacking"] = {"mode": "normal", "group": "A"}
    options: Json = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    if big:
        text = "name" if panel.kind == "which" else "value_and_name"
        options = {
            "textMode": text,
            "colorMode": "none",
            "graphMode": "none",
            "reduceOptions": {"calcs": ["lastNotNull"]},
        }
    return {
        "type": "stat" if big else "timeseries",
        "description": "; ".join(f"{_short(gauge)}: {gauge.help}" for gauge in gauges),
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": _field(panel, {} if big else custom), "overrides": []},
        "options": options,
        "targets": [_target(gauge, chr(ord("A") + index), panel) for index, gauge in enumerate(gauges)],
    }


def _field(panel: Panel, custom: Json) -> Json:
    steps: list[Json] = [{"color": "green", "value": None}]
    if panel.at_most is not None:
        steps.append({"color": "red", "value": panel.at_most})
    if panel.at_least is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.at_least}]
    if len(steps) > 1:
        custom = custom | {"thresholdsStyle": {"mode": "dashed"}}
    return {"unit": panel.unit, "custom": custom, "thresholds": {"mode": "absolute", "steps": steps}}


def _target(gauge: Gauge, letter: str, panel: Panel) -> Json:
    """One gauge of the chosen runs. A resumed run is a new process, hence a new series: it is one line nevertheless."""
    by = ", ".join(filter(None, ("run", gauge.label)))
    which = _short(gauge) if len(panel.gauges) > 1 else ""
    said = " ".join(filter(None, (f"{{{{{gauge.label}}}}}" if gauge.label else "", which)))
    expr = f'max by ({by}) (ray_{gauge.name}{{run=~"$run"}})' + (" == 1" if panel.kind == "which" else "")
    return {"refId": letter, "datasource": _SOURCE, "expr": expr, "legendFormat": f"{{{{run}}}} {said}".strip()}


def _short(gauge: Gauge) -> str:
    return gauge.name.removeprefix("rloop_").replace("_", " ")


def _source_variable() -> Json:
    return {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}


def _run_variable() -> Json:
    query = {"query": "label_values(ray_rloop_version, run)", "refId": "runs"}
    return {
        "name": "run",
        "label": "Run",
        "type": "query",
        "datasource": _SOURCE,
        "query": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{FILE}: {sum(len(panels) for panels in ROWS.values())} panels")
