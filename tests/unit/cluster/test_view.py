import io
from pathlib import Path

import pytest
from rich.console import Console

from actors.records import BufferStatus, EvalRow, RunStatus
from cluster.stalls import publish
from cluster.view import LiveView, line, panel

SCORES = {"pass@1": 0.2104, "pass@1_low": 0.18, "pass@1_high": 0.25, "pass@32": 0.95, "4 numbers/pass@1": 0.1}
EVAL = EvalRow("theta-0", "base policy", SCORES, 60, 32)
RL = RunStatus(
    state="running",
    phase="rl",
    iteration=1,
    iterations=3,
    step=12,
    steps=50,
    version=62,
    metrics={
        "reward": 0.4321,
        "loss": -0.01234,
        "staleness_mean": 0.75,
        "generate_tokens_per_s": 5123.4,
        "train_tokens_per_s": 9876.5,
    },
    buffer=BufferStatus(running=20, ready=5, finished=240, dropped={"zero_variance": 31, "stale": 0, "failed": 2}),
    evals=(EVAL,),
    waiting="buffer: batch 13 of 50 (2 s)",
    elapsed_s=125,
    remaining_s=3723,
)


def drawn(status: RunStatus) -> str:
    console = Console(record=True, width=110, file=io.StringIO())
    console.print(panel("demo", status))
    return console.export_text()


def test_the_panel_shows_phase_step_numbers_queue_and_what_it_waits_for() -> None:
    text = drawn(RL)
    for part in (
        "rloop · demo · running",
        "iteration 2/3 RL",
        "step 12/50",
        "2:05 gone, about 1:02:03 left",
        "reward 0.432, loss -0.0123, staleness 0.75",
        "generate 5,123, train 9,876",
        "20 running, 5 ready, 240 finished",
        "2 failed, 31 zero variance",
        "pass@1 0.210, pass@32 0.950 (base policy)",
        "version 62",
        "buffer: batch 13 of 50 (2 s)",
    ):
        assert part in text, part
    assert "stale," not in text  # nothing was dropped as stale
    assert "numbers/pass" not in text


def test_an_empty_picture_draws() -> None:
    assert "starting" in drawn(RunStatus(waiting="engines"))
    assert line(RunStatus(waiting="engines")) == "0:00 starting | waits for engines"


def test_an_evaluation_by_itself_belongs_to_no_iteration() -> None:
    assert line(RunStatus(phase="eval", waiting="evaluation")) == "0:00 evaluation | waits for evaluation"


def test_off_a_terminal_there_is_a_line_per_phase_change_and_one_every_ten_seconds() -> None:
    now, out = [0.0], io.StringIO()
    with LiveView("demo", Console(file=out, force_terminal=False), clock=lambda: now[0]) as view:
        for second in range(25):
            now[0] = float(second)
            view.show(
                RunStatus(state="running", phase="rl" if second < 12 else "rft", iterations=1, step=second, steps=99)
            )
    assert [text.split(" step ")[1].split(" |")[0] for text in out.getvalue().splitlines()] == [
        "0/99",
        "10/99",
        "12/99",
        "22/99",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_explanation_of_a_stall_is_printed_in_full_and_once(tmp_path: Path, terminal: bool) -> None:
    text, out = "who waits for whom:\n  121.0 s of 480 s  controller: [buffer] batch 4 of 10\n", io.StringIO()
    with LiveView("demo", Console(file=out, force_terminal=terminal, width=40)) as view:
        view.show(RL)
        publish(text, tmp_path / "stalls")
        view.show(RL)
    publish("a run that nobody looks on", tmp_path / "stalls")
    assert out.getvalue().count(text) == 1
    assert "nobody looks on" not in out.getvalue()


def test_markup_in_messages_is_shown_as_it_is() -> None:
    assert "[bold]x[/]" in drawn(RunStatus(message="[bold]x[/]"))
