"""What Prometheus sees of a picture of the run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from actors.records import BufferStatus, EvalRow, RunStatus
from cluster.gauges import GAUGES, Exporter, table

DOCS = Path(__file__).parents[3] / "docs" / "runs.md"
STATUS = RunStatus(
    "running",
    phase="rl",
    iteration=1,
    step=3,
    steps=40,
    version=43,
    metrics={"reward": 0.25, "train_tokens_per_s": 900.0, "sync_s": 0.07},
    buffer=BufferStatus(running=5, ready=2, dropped={"stale": 4}),
    evals=(EvalRow("theta-1", "", {"pass@1": 0.5, "hard/maj@8": 0.75, "pass@1_low": 0.4, "entropy": 1.0}, 1, 8),),
)


class Board(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """Keeps what is set."""

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        self[name, frozenset(labels.items())] = value

    def shows(self, name: str, **labels: str) -> float:
        return self[name, frozenset({"run": "demo", **labels}.items())]


def test_a_picture_is_shown_with_the_name_of_its_run():
    board = Board()
    Exporter(board, "demo").show(STATUS)
    assert board.shows("rloop_reward") == 0.25
    assert board.shows("rloop_version") == 43
    assert board.shows("rloop_iteration") == 2  # as on the screen
    assert board.shows("rloop_tokens_per_second", role="learner") == 900
    assert board.shows("rloop_groups", state="running") == 5
    assert board.shows("rloop_dropped_groups", reason="stale") == 4
    assert board.shows("rloop_held_out", metric="pass@1") == 0.5
    assert board.shows("rloop_held_out", metric="hard/maj@8") == 0.75
    assert (board.shows("rloop_phase", phase="rl"), board.shows("rloop_phase", phase="rft")) == (1, 0)
    shown = {name for name, _ in board}
    assert "rloop_loss" not in shown  # no step has told one
    assert all(dict(labels)["run"] == "demo" for _, labels in board)


def test_what_is_over_goes_to_zero_and_pictures_are_thinned_out():
    board, now = Board(), [0.0]
    exporter = Exporter(board, "demo", clock=lambda: now[0])
    exporter.show(STATUS)
    later = replace(STATUS, phase="rft", buffer=BufferStatus(), metrics=STATUS.metrics | {"reward": 0.5})
    now[0] = 1.0
    exporter.show(later)
    assert board.shows("rloop_reward") == 0.25
    now[0] = 2.5
    exporter.show(later)
    assert board.shows("rloop_reward") == 0.5
    assert board.shows("rloop_dropped_groups", reason="stale") == 0
    assert (board.shows("rloop_phase", phase="rl"), board.shows("rloop_phase", phase="rft")) == (0, 1)


def test_names_are_one_of_a_kind_and_the_docs_have_the_table_that_follows_from_the_code():
    names = [gauge.name for gauge in GAUGES]
    assert len(set(names)) == len(names)
    assert table() in DOCS.read_text()
