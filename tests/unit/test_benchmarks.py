import io
import json
from pathlib import Path
from types import ModuleType

import pytest
from by_path import load_by_path
from rich.console import Console

FILE = Path(__file__).parents[2] / "benchmarks" / "report.py"


@pytest.fixture(scope="module")
def reporting() -> ModuleType:
    return load_by_path(FILE)


@pytest.fixture
def rows(reporting: ModuleType) -> list:
    return [
        reporting.Row("rate", 6291.4, "rollouts/s", aim=2000),
        reporting.Row("ratio", 12.34, "ratio", aim=3, better="lower"),
        reporting.Row("pause", 0.06149, "s", better="lower"),
    ]


def test_the_file_has_one_object_per_row_and_no_aim_where_there_is_none(reporting, rows, tmp_path):
    reporting.report("a title", rows, tmp_path / "out.json", Console(file=io.StringIO()))
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "rows": [
            {"name": "rate", "value": 6291.4, "unit": "rollouts/s", "aim": 2000, "better": "higher"},
            {"name": "ratio", "value": 12.34, "unit": "ratio", "aim": 3, "better": "lower"},
            {"name": "pause", "value": 0.06149, "unit": "s", "better": "lower"},
        ]
    }


def test_the_table_has_the_numbers_and_says_which_aims_are_missed(reporting, rows):
    text = io.StringIO()
    reporting.report("a title", rows, console=Console(file=text, width=100))
    rate, ratio, pause = (next(line for line in text.getvalue().splitlines() if name in line) for name in NAMES)
    assert "6,291" in rate
    assert "≥ 2,000" in rate
    assert "missed" not in rate
    assert "12.3 " in ratio
    assert "≤ 3  missed" in ratio
    assert "0.0615" in pause
    assert "missed" not in pause


NAMES = ("rate ", "ratio ", "pause ")


@pytest.mark.parametrize(("better", "met"), [("higher", [False, True, True]), ("lower", [True, True, False])])
def test_an_aim_is_met_at_the_aim_itself_and_on_its_better_side(reporting, better, met):
    assert [reporting.Row("x", value, "s", 3.0, better).met for value in (2.9, 3.0, 3.1)] == met
