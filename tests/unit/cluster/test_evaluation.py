import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from actors.records import EvalRow
from cluster.config import RunConfig
from cluster.evaluation import table, write
from cluster.machine import Machine
from cluster.preflight import check_evaluation
from cluster.settings import Refused
from rollout.evaluation import summarize
from rollout.records import EvalCounts

CONFIG = RunConfig.model_validate(
    {"data": {"task": "countdown"}, "verifier": {"name": "countdown"}, "eval": {"samples": 4, "ks": (1, 4)}}
)
COUNTS = [
    EvalCounts("a", "3 numbers", 4, 3, 0, truncated=1, tokens=40, votes=(3, 1), right=(3, 0)),
    EvalCounts("b", "3 numbers", 4, 1, 0, truncated=0, tokens=60, votes=(2, 1, 1), right=(0, 1, 0)),
    EvalCounts("c", "harder", 4, 0, 0, truncated=3, tokens=100, votes=(1, 1, 1, 1), right=(0, 0, 0, 0)),
]


def row(counts: list[EvalCounts]) -> EvalRow:
    return EvalRow("models/m", "evaluation", summarize(counts, CONFIG.eval.ks), len(counts), 4)


def lines(counts: list[EvalCounts]) -> dict[str, list[str]]:
    """Cells by the name of their row, the names of the columns under ``."""
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(table(row(counts)))
    parted = [line.replace("┃", "│").split("│") for line in console.export_text().splitlines()]
    cells = [[cell.strip() for cell in line[1:-1]] for line in parted if len(line) > 2]
    return {name: rest for name, *rest in cells}


def test_every_metric_of_every_set_is_shown_with_its_interval() -> None:
    shown = lines(COUNTS)
    assert shown[""] == ["all", "3 numbers", "harder"]
    assert shown["problems"] == ["3", "2", "1"]
    assert [cell.split(" ±")[0] for cell in shown["pass@1"]] == ["0.333", "0.500", "0.000"]
    assert [cell.split(" ±")[0] for cell in shown["pass@4"]] == ["0.667", "1.000", "0.000"]
    assert [cell.split(" ±")[0] for cell in shown["maj@4"]] == ["0.333", "0.500", "0.000"]
    assert [cell.split(" ±")[0] for cell in shown["worst@4"]] == ["0.000", "0.000", "0.000"]
    assert shown["pass@1"][0] == "0.333 ±0.375"  # three problems tell next to nothing
    assert shown["tokens per answer"] == ["16.7", "12.5", "25.0"]
    assert shown["truncated"] == ["33.3%", "12.5%", "75.0%"]
    assert shown["without verdict"] == ["0.0%", "0.0%", "0.0%"]


def test_a_single_set_is_not_shown_twice() -> None:
    assert lines(COUNTS[:2])[""] == ["3 numbers"]


def test_problems_without_any_verdict_are_shown_without_scores() -> None:
    failed = EvalCounts("d", "harder", 4, 0, failed=4, truncated=0, tokens=0)
    shown = lines([*COUNTS[:2], failed])
    assert shown["pass@1"][2] == "-"
    assert shown["without verdict"][2] == "100.0%"


def test_the_file_holds_the_settings_all_metrics_and_the_counts_of_every_problem(tmp_path: Path) -> None:
    write(tmp_path / "out.json", CONFIG, row(COUNTS), COUNTS)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["checkpoint"] == "models/m"
    assert found["config"] == json.loads(json.dumps(CONFIG.flat()))
    of_sets = {f"{tag}/{name}": value for tag, metrics in found["sets"].items() for name, value in metrics.items()}
    assert found["all"] | of_sets == summarize(COUNTS, (1, 4))
    assert list(found["sets"]) == ["3 numbers", "harder"]
    read = [{name: tuple(v) if isinstance(v, list) else v for name, v in p.items()} for p in found["problems"]]
    assert [EvalCounts(**problem) for problem in read] == COUNTS


def test_a_file_that_could_not_be_written_is_refused_before_the_evaluation(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        check_evaluation(CONFIG, tmp_path, Machine(1 << 40, 1 << 40, 2, False), tmp_path / "none" / "out.json")
    assert any("--json" in problem and "cannot be written there" in problem for problem in refused.value.problems)
