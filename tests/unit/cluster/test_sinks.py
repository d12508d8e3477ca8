"""Numbers on their way elsewhere: all of them, once, in order, whatever a sink does."""

import json
import threading
import time
from functools import partial

import pytest

from cluster.sinks import Row, SinkPlace, following, make_sink, missing


def line(version: int | None, kind: str = "rl", **numbers: object) -> str:
    return json.dumps(
        {"time": 5.0, "phase": kind, "step": 1, **({} if version is None else {"version": version}), **numbers}
    )


@pytest.fixture
def run(tmp_path):
    class Run:
        directory = tmp_path
        file = tmp_path / "metrics.jsonl"

        def write(self, *lines: str, end: str = "\n") -> None:
            with self.file.open("a") as file:
                file.write("\n".join(lines) + end)

    return Run()


class Keeper:
    """A sink that keeps what it gets, or fails at a row."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.rows: list[Row] = []
        self.closed, self.fails_at = False, fails_at

    def put(self, row: Row) -> None:
        if len(self.rows) == self.fails_at:
            raise ConnectionError("no such host")
        self.rows.append(row)

    def close(self) -> None:
        self.closed = True


def versions(sink: Keeper) -> list[int]:
    return [row.version for row in sink.rows]


def test_a_row_has_its_numbers_by_kind_and_the_version_of_the_line_before_where_it_has_none():
    text = line(None, "eval", **{"pass@1": 0.5, "weights": "theta-1", "gap": float("nan")}, seconds=2, again=False)
    assert Row.read(text, newest=7) == Row(5.0, 7, {"eval/pass@1": 0.5, "eval/seconds": 2.0})


def test_a_sink_gets_every_line_also_the_last_and_none_that_is_half_written(run):
    run.write(line(1, reward=0.1))
    keeper = Keeper()
    with following({"keeper": lambda: keeper}, run.directory) as troubles:
        run.write(line(2, reward=0.2), line(None, "guard"), line(3)[:9], end="")
    assert versions(keeper) == [1, 2, 2]
    assert keeper.rows[1].numbers == {"rl/reward": 0.2}
    assert keeper.closed
    assert troubles == []


def test_a_resumed_run_sends_what_was_not_sent_and_nothing_twice(run):
    run.write(line(1), line(2))
    first, second = Keeper(), Keeper()
    with following({"keeper": lambda: first}, run.directory):
        pass
    run.write(line(None, "guard"), line(3))
    with following({"keeper": lambda: second}, run.directory):
        pass
    assert (versions(first), versions(second)) == ([1, 2], [2, 3])


def test_a_sink_that_fails_is_told_and_stops_neither_the_run_nor_another_and_gets_the_rest_later(run):
    failing, other, later = Keeper(fails_at=0), Keeper(), Keeper()
    run.write(line(1), line(2))
    with following({"failing": lambda: failing, "other": lambda: other}, run.directory) as troubles:
        pass
    assert versions(other) == [1, 2]
    (trouble,) = troubles
    assert trouble.startswith("sink failing: ConnectionError: no such host; ")
    with following({"failing": lambda: later}, run.directory) as troubles:
        pass
    assert (versions(later), troubles) == ([1, 2], [])


def test_a_sink_that_cannot_be_made_is_told_too(run):
    with following({"broken": lambda: 1 // 0}, run.directory) as troubles:
        pass
    assert "ZeroDivisionError" in troubles[0]


def test_a_sink_that_hangs_costs_the_end_of_a_run_its_deadline_and_no_more(run):
    release = threading.Event()

    class Hanging(Keeper):
        def put(self, row: Row) -> None:
            release.wait(30)

    run.write(line(1))
    began = time.monotonic()
    with following({"hanging": Hanging}, run.directory, close_s=0.3) as troubles:
        pass
    assert time.monotonic() - began < 10
    release.set()
    assert "did not take the rest within 0.3 s" in troubles[0]


def test_sinks_that_there_are_not_are_refused_with_what_to_do():
    problems = missing(("tensorbord", "wandb", "os:nowhere"), installed=lambda package: False)
    assert "did you mean 'tensorboard'" in problems[0]
    assert problems[1] == "wandb needs the package wandb; install rloop[wandb], or leave it out"
    assert "no 'nowhere'" in problems[2]


def place(run) -> SinkPlace:
    return SinkPlace(run.directory, "demo", {"cluster.seed": 3, "model.path": None}, "rloop")


def test_tensorboard_files_have_every_number_at_its_version(run):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    run.write(line(4, reward=0.25), line(5, "eval", **{"3 numbers/pass@1": 0.5}))
    with following({"tensorboard": partial(make_sink, "tensorboard", place(run))}, run.directory) as troubles:
        pass
    assert troubles == []
    (file,) = (run.directory / "tensorboard").iterdir()
    data, found = file.read_bytes(), []
    while data:  # length, its checksum, the record, its checksum
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        data = data[16 + size :]
    assert found == [("rl/reward", 4, 0.25), ("eval/3_numbers/pass_at_1", 5, 0.5)]


def test_wandb_keeps_a_run_offline(run, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run.write(line(4, reward=0.25))
    with following({"wandb": partial(make_sink, "wandb", place(run))}, run.directory) as troubles:
        pass
    assert troubles == []
    assert list(run.directory.glob("wandb/offline-run-*/*.wandb"))


def test_mlflow_has_a_run_with_settings_and_numbers_that_a_second_start_goes_on_with(run, monkeypatch, tmp_path):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for version in (4, 5):
        run.write(line(version, "eval", **{"pass@1": version / 8}))
        with following({"mlflow": partial(make_sink, "mlflow", place(run))}, run.directory) as troubles:
            pass
        assert troubles == []
    client = MlflowClient()
    number = client.get_experiment_by_name("rloop").experiment_id
    (found,) = client.search_runs([number])
    assert found.data.params == {"cluster.seed": "3", "model.path": "None"}
    history = client.get_metric_history(found.info.run_id, "eval/pass_at_1")
    assert [(one.step, one.value) for one in history] == [(4, 0.5), (5, 0.625)]
