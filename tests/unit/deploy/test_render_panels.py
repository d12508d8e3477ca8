"""The panels drawn without Grafana: their own questions, every panel in its place, and those without data told."""

import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from by_path import load_by_path

FILE = Path(__file__).parents[3] / "deploy" / "grafana" / "render_panels.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_by_path(FILE)


@pytest.fixture
def board() -> dict:
    return json.loads(FILE.with_name("rloop.json").read_text())


class Prometheus:
    """Has an answer to every question, but to those about `missing`."""

    def __init__(self, values: list[str], missing: str = "nothing") -> None:
        self.values, self.missing = values, missing
        self.asked: list[str] = []

    def __call__(self, expression: str) -> list[dict]:
        self.asked.append(expression)
        if self.missing in expression:
            return []
        points = [[10 * index, value] for index, value in enumerate(self.values)]
        return [{"metric": {"run": "a.b", "state": "running", "role": "<learner>"}, "values": points}]


def sections(drawn: str) -> dict[str, str]:
    """The panels of a page by their titles."""
    return dict(re.findall(r"<section[^>]*><h3>(.*?)</h3>(.*?)</section>", drawn, re.DOTALL))


def test_every_panel_asks_its_own_questions_about_the_named_runs(script, board):
    prometheus = Prometheus(["1", "2"])
    drawn, empty = script.page(board, ["a.b", "c"], prometheus, script.Period(0, 60, 10))
    own = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert prometheus.asked == [expression.replace("$run", r"a\\.b|c") for expression in own]
    assert list(sections(drawn)) == [panel["title"] for panel in board["panels"] if panel["type"] != "row"]
    assert empty == []


def test_a_panel_without_data_says_so_and_is_told(script, board):
    prometheus = Prometheus(["1", "2"], missing="ray_rloop_forgetting")
    drawn, empty = script.page(board, ["demo"], prometheus, script.Period(0, 60, 10))
    assert empty == ["Forgetting"]
    assert [title for title, body in sections(drawn).items() if "No data" in body] == ["Forgetting"]


def test_what_is_not_a_number_is_no_data(script, board):
    _, empty = script.page(board, ["demo"], Prometheus(["NaN", "+Inf"]), script.Period(0, 60, 10))
    assert len(empty) == len(sections(script.page(board, ["demo"], Prometheus(["1"]), script.Period(0, 60, 10))[0]))


def test_a_line_goes_from_the_lowest_to_the_highest_value_and_is_cut_where_some_are_missing(script, board):
    board["panels"] = [panel for panel in board["panels"] if panel["title"] == "Reward"]
    board["panels"][0]["targets"] = board["panels"][0]["targets"][:1]
    drawn, _ = script.page(board, ["demo"], Prometheus(["0", "1", "NaN", "NaN", "0.5"]), script.Period(0, 50, 10))
    first, second = re.findall(r'points="([^"]*)" fill="none" stroke="#2f6fb7"', drawn)
    heights = [float(point.split(",")[1]) for point in first.split()[1:] + second.split()[1:]]
    assert heights[0] > heights[2] > heights[1], "down is up in a picture"
    assert heights[2] == pytest.approx((heights[0] + heights[1]) / 2, abs=0.1)


def test_areas_lie_on_one_another(script):
    lower, upper = (
        script.Series(name, ((0.0, share), (10.0, 1 - share))) for name, share in (("0", 0.25), ("1", 0.75))
    )
    assert script._stacked([lower, upper])[1].points == ((0.0, 1.0), (10.0, 1.0))


def test_names_are_those_of_the_legend_with_the_run_only_where_there_are_two_and_no_markup(script, board):
    one, _ = script.page(board, ["a.b"], Prometheus(["1"]), script.Period(0, 60, 10))
    two, _ = script.page(board, ["a.b", "c"], Prometheus(["1"]), script.Period(0, 60, 10))
    assert "</i>&lt;learner&gt;</footer>" in sections(one)["Tokens"]
    assert "</i>a.b &lt;learner&gt;</footer>" in sections(two)["Tokens"]
    assert sections(one)["State"] == "<p>running</p>"
