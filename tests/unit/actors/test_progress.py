import json

import pytest

from actors.progress import Progress
from actors.records import BufferStatus


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_left_is_units_left_times_seconds_per_unit(tmp_path):
    clock = Clock()
    progress = Progress(tmp_path, iterations=2, clock=clock)
    progress.still_to_come = lambda: {"rl": 10.0, "eval": 2.0}
    progress.begin("rl", 0, steps=10)
    assert progress.picture().remaining_s is None  # an RL step has not been seen yet
    progress.step("rl", 3.0, {"reward": 0.5}, step=1)
    progress.update(step=1)
    assert progress.picture().phase_remaining_s == pytest.approx(9 * 3.0)
    assert progress.picture().remaining_s is None  # nor an evaluation
    progress.step("eval", 5.0, {})
    assert progress.picture().remaining_s == pytest.approx((9 + 10) * 3.0 + 2 * 5.0)


def test_the_generation_rate_is_that_of_the_last_pictures_and_counts_every_fate(tmp_path):
    clock = Clock()
    progress = Progress(tmp_path, iterations=1, clock=clock)
    for _ in range(30):  # more pictures than are remembered: the slow start is forgotten
        progress.picture(BufferStatus(tokens=int(100 * clock.now)))
        clock.now += 1.0
    for _ in range(25):
        progress.picture(BufferStatus(tokens=int(3000 + 500 * (clock.now - 30))))
        clock.now += 1.0
    assert progress.picture().metrics["generate_tokens_per_s"] == pytest.approx(500)


def test_what_is_waited_for_is_told_with_how_long(tmp_path):
    clock = Clock()
    progress = Progress(tmp_path, iterations=1, clock=clock)
    progress.waiting("buffer: batch 3 of 9")
    clock.now = 12.0
    assert progress.picture().waiting == "buffer: batch 3 of 9 (12 s)"
    progress.waiting("")
    assert progress.picture().waiting == ""


def test_a_step_is_one_line_of_metrics(tmp_path):
    progress = Progress(tmp_path, iterations=1)
    progress.step("rl", 1.5, {"reward": 0.123456789}, step=7)
    (line,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (line["phase"], line["step"], line["seconds"], line["reward"]) == ("rl", 7, 1.5, 0.123457)
