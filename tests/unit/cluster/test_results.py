import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from actors.records import EvalRow, RunStatus
from cluster.results import grids, markdown, report, table
from cluster.rundir import RunDir

BASE = {"pass@1": 0.2, "pass@1_low": 0.15, "pass@1_high": 0.27, "pass@8": 0.5, "3 numbers/pass@1": 0.3}
ROWS = (
    EvalRow("theta-0", "base policy", BASE, 60, 32),
    EvalRow("rl-0", "iteration 1, after RL", {"pass@1": 0.31, "pass@8": 0.45}, 60, 32),
    EvalRow("theta-1", "iteration 1, after RFT", {"pass@1": 0.3, "pass@8": 0.625}, 60, 32),
)
SETS = {"3 numbers/pass@1": 0.25, "3 numbers/pass@8": 0.75, "3 numbers/pass@32": 0.875, "harder/pass@1": 0.125}
BY_SET = (EvalRow("theta-0", "base policy", BASE | {"pass@32": 0.8} | SETS | {"harder/pass@32": 0.5}, 60, 32),)


def text_of(draw: object) -> str:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(draw)
    return console.export_text()


def test_the_table_has_a_row_per_policy_with_intervals_and_changes_against_the_base() -> None:
    (grid,) = grids(ROWS)
    text = text_of(table(grid))
    assert "0.200 ±0.060" in text
    assert "0.310 (+0.110)" in text
    assert "0.450 (-0.050)" in text
    assert "60 held-out problems × 32 answers" in text
    assert text.count("theta-") == 2


def test_several_held_out_sets_have_a_table_of_their_own_with_the_ends_of_pass_at_k() -> None:
    _, grid = grids(BY_SET)
    assert grid.title == "pass@1 / pass@32 of each held-out set"
    assert grid.header == ["policy", "weights", "3 numbers", "harder"]
    assert grid.rows == [["base policy", "theta-0", "0.250 / 0.875", "0.125 / 0.500"]]


def test_a_set_that_one_of_the_policies_was_not_evaluated_on_leaves_a_gap() -> None:
    _, grid = grids((*BY_SET, ROWS[1]))
    assert grid.rows[1] == ["iteration 1, after RL", "rl-0", "- / -", "- / -"]


def test_in_a_narrow_terminal_no_number_is_lost() -> None:
    console = Console(record=True, width=70, file=io.StringIO())
    console.print(table(grids(ROWS)[0]))
    text = console.export_text()
    for number in ("0.200", "±0.060", "0.310", "(+0.110)", "0.625", "(+0.125)"):
        assert number in text


def test_the_same_tables_in_markdown() -> None:
    title = "60 held-out problems × 32 answers (± half of a 95 % interval, change against the first row)"
    assert markdown(ROWS) == (
        f"{title}\n\n"
        "| policy | weights | pass@1 | pass@8 |\n"
        "| --- | --- | ---: | ---: |\n"
        "| base policy | theta-0 | 0.200 ±0.060 | 0.500 |\n"
        "| iteration 1, after RL | rl-0 | 0.310 (+0.110) | 0.450 (-0.050) |\n"
        "| iteration 1, after RFT | theta-1 | 0.300 (+0.100) | 0.625 (+0.125) |"
    )
    assert markdown(BY_SET).endswith("| base policy | theta-0 | 0.250 / 0.875 | 0.125 / 0.500 |")


def test_the_report_says_where_the_run_is_and_what_to_do_next(tmp_path: Path) -> None:
    model = tmp_path / "checkpoints" / "theta-1" / "hf"
    model.mkdir(parents=True)
    status = RunStatus(state="finished", iterations=1, evals=ROWS)
    console = Console(record=True, width=200, file=io.StringIO())
    report(status, RunDir(tmp_path), "pass@1", console)
    text = console.export_text()
    assert "Best by pass@1: rl-0 (0.310, iteration 1, after RL)" in text
    assert f"Run directory: {tmp_path}" in text
    assert "hf/ in each loads in transformers and vLLM" in text
    assert f"rloop eval {model} {tmp_path / 'config.yaml'} eval.samples=64" in text
    assert f"rloop resume {tmp_path} schedule.iterations=3" in text
    assert f"vllm.LLM({str(model)!r}, enforce_eager=True" in text

    report(replace(status, state="interrupted"), RunDir(tmp_path), "pass@1", console)
    assert console.export_text().rstrip().endswith(f"rloop resume {tmp_path}")


def test_a_resumed_run_that_has_nothing_left_to_do_says_why(tmp_path: Path) -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    status = RunStatus(state="finished", evals=ROWS, message="its only RL phase ended early (entropy)")
    report(status, RunDir(tmp_path), "pass@1", console)
    assert "Nothing is left to do: its only RL phase ended early (entropy)." in console.export_text()
