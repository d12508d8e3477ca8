"""The Grafana dashboard shows the gauges that there are, all of them, and is what its script writes."""

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from by_path import load_by_path
from jsonschema import Draft202012Validator

from cluster.gauges import GAUGES
from trainer.config import GuardConfig

ROOT = Path(__file__).parents[3]
FILE = ROOT / "deploy" / "grafana" / "rloop.json"
SCHEMA = Draft202012Validator(json.loads((ROOT / "tests" / "data" / "grafana_schema.json").read_text()))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_by_path(FILE.with_name("make_dashboard.py"))


@pytest.fixture
def board() -> dict:
    return json.loads(FILE.read_text())


def panels(board: dict) -> list[dict]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def targets(board: dict) -> list[dict]:
    return [target for panel in panels(board) for target in panel["targets"]]


def test_the_file_is_what_the_script_makes_of_the_gauges(script, board):
    assert board == script.dashboard(), "run python deploy/grafana/make_dashboard.py"


def test_every_gauge_is_on_it_and_nothing_else_is_asked_for(board):
    asked = Counter(name for target in targets(board) for name in re.findall(r"ray_(rloop_\w+)", target["expr"]))
    assert asked == Counter(gauge.name for gauge in GAUGES)


def test_a_question_is_about_the_chosen_runs_and_keeps_the_gauges_own_label(board):
    labels = {f"ray_{gauge.name}": gauge.label for gauge in GAUGES}
    for target in targets(board):
        by, name = re.fullmatch(r'max by \((.*)\) \((ray_\w+)\{run=~"\$run"\}\)( == 1)?', target["expr"]).groups()[:2]
        assert by.split(", ") == [label for label in ("run", labels[name]) if label], name
        assert "{{run}}" in target["legendFormat"]
        assert not labels[name] or f"{{{{{labels[name]}}}}}" in target["legendFormat"]


def test_two_lines_of_a_panel_are_told_apart(board):
    for panel in panels(board):
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert len(set(legends)) == len(legends), panel["title"]


def test_red_begins_where_the_guard_steps_in(board):
    steps = {panel["title"]: panel["fieldConfig"]["defaults"]["thresholds"]["steps"] for panel in panels(board)}
    guard = GuardConfig()
    assert steps["Mismatch of engine and learner"][-1] == {"color": "red", "value": guard.mismatch_kl}
    assert steps["Clipped tokens"][-1] == {"color": "red", "value": guard.clip_frac}
    assert steps["Effective sample size"] == [
        {"color": "red", "value": None},
        {"color": "green", "value": guard.ess_frac},
    ]


def test_panels_lie_side_by_side_on_the_grid_and_nowhere_on_one_another(board):
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def test_it_is_a_dashboard_by_the_schema_and_a_misspelt_field_is_none(board):
    SCHEMA.validate(board)
    panels(board)[0]["fieldConfig"]["defaults"]["units"] = "s"
    assert not SCHEMA.is_valid(board)


def test_prometheus_reads_the_list_that_ray_writes_more_often_than_a_gauge_is_forgotten():
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    ray = Path(importlib.util.find_spec("ray").origin).parent  # without importing it
    name = re.search(r'PROMETHEUS_SERVICE_DISCOVERY_FILE = "(.*)"', (ray / "_private" / "ray_constants.py").read_text())
    [scrape] = config["scrape_configs"]
    assert scrape["file_sd_configs"][0]["files"] == [f"/tmp/ray/{name[1]}"]
    assert config["global"]["scrape_interval"] == "10s"
