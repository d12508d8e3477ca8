import asyncio
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rollout.datasets import SupervisedDataset
from rollout.events import Finished, Leased, PhaseBegun, Trained
from rollout.experts import ExpertReport, select_experts
from rollout.journal import Journal
from rollout.payloads import to_batch
from rollout.records import RolloutGroup
from rollout.storage import LocalDisk


def write(directory: Path, *history: PhaseBegun | Trained | tuple[RolloutGroup, int], compacted: bool = False) -> None:
    """A journal in which these groups finished at these steps."""

    async def run() -> None:
        journal, iteration = Journal(LocalDisk(directory), "data"), 0
        for item in history:
            if isinstance(item, PhaseBegun | Trained):
                iteration = getattr(item, "iteration", iteration)
                journal.post(item)
                continue
            group, step = item
            newest = int(group.rollouts[0].response.versions.max())
            journal.post(Leased(group.key, "w", 0))
            ref = journal.add(to_batch(group, iteration, step))
            fate = "buffered" if group.key.purpose == "train" else "evaluated"
            journal.post(Finished(group.key, "w", 0, ref, newest, newest, fate))
        if compacted:
            await journal.compact()
        await journal.close()

    asyncio.run(run())


def select(directory: Path, tau_hard: float = 1.0, max_per_prompt: int = 16) -> tuple[ExpertReport, list[dict]]:
    report = select_experts(LocalDisk(directory), 0, tau_hard, max_per_prompt, 5, directory / "out.parquet")
    return report, pq.read_table(directory / "out.parquet").to_pylist()


BEGIN = PhaseBegun("rl", 0, 0, 50)


def test_correct_answers_of_all_steps_are_kept_with_their_provenance(tmp_path: Path, make_group):
    first = make_group("a", (1.0, 0.0, 0.9), versions=(3, 4), tokens=[[1, 2], [3, 4], [5, 6]])
    second = make_group("b", (0.0, 1.0), versions=(9,), epoch=1)
    write(tmp_path, BEGIN, (first, 4), (second, 9))
    report, rows = select(tmp_path)
    assert report == ExpertReport(3, 3, 2, {4: 2, 9: 1}, mean_success=(2 / 3 + 1 / 2) / 2)
    assert rows[0] == {
        "prompt_ids": [7, 8, 9],
        "response_ids": [1, 2],
        "prompt_id": "a",
        "epoch": 0,
        "sample_index": 0,
        "step": 4,
        "version": 4,
        "reward": 1.0,
    }
    assert [(r["prompt_id"], r["sample_index"], r["response_ids"]) for r in rows[1:]] == [
        ("a", 2, [5, 6]),
        ("b", 1, [101]),
    ]
    assert len(SupervisedDataset(tmp_path / "out.parquet")) == 3  # it is a supervised file


def test_only_hard_problems_are_kept_and_the_rate_is_over_the_whole_phase(tmp_path: Path, make_group):
    write(
        tmp_path,
        BEGIN,
        (make_group("easy", (1.0, 1.0, 1.0, 0.0)), 0),
        (make_group("hard", (1.0, 0.0, 0.0, 0.0)), 0),
        (make_group("at first hard", (1.0, 0.0, 0.0, 0.0)), 0),
        (make_group("at first hard", (1.0, 1.0, 1.0, 1.0), epoch=1), 9),
        (make_group("never solved", (0.0, 0.0, 0.0, 0.0)), 0),
    )
    report, rows = select(tmp_path, tau_hard=0.25)
    assert [row["prompt_id"] for row in rows] == ["hard"]
    assert report.mean_success == 0.25
    assert {r["prompt_id"] for r in select(tmp_path, tau_hard=0.625)[1]} == {"hard", "at first hard"}


def test_answers_without_a_verdict_are_not_attempts(tmp_path: Path, make_group):
    write(tmp_path, BEGIN, (make_group("a", (1.0, 0.0, None, None)), 0))
    assert select(tmp_path, tau_hard=0.5)[0].mean_success == 0.5


def test_truncated_answers_other_phases_and_evaluations_are_left_out(tmp_path: Path, make_group):
    write(
        tmp_path,
        PhaseBegun("rl", 1, 0, 50),
        (make_group("other phase"), 0),
        PhaseBegun("rl", 0, 60, 50),
        (make_group("truncated", truncated=True), 0),
        (make_group("held out", purpose="eval"), 0),
    )
    assert select(tmp_path) == (ExpertReport(), [])


def test_identical_answers_to_a_problem_are_kept_once(tmp_path: Path, make_group):
    same = [[5, 5], [5, 5], [6, 6]]
    write(
        tmp_path,
        BEGIN,
        (make_group("a", (1.0, 1.0, 1.0), tokens=same), 7),
        (make_group("a", (1.0, 0.0, 1.0), tokens=same, epoch=1), 3),
        (make_group("b", (1.0, 0.0, 1.0), tokens=same), 3),
    )
    report, rows = select(tmp_path)
    assert (report.candidates, report.kept) == (7, 4)
    kept = {(r["prompt_id"], tuple(r["response_ids"]), r["step"]) for r in rows}
    assert kept == {("a", (5, 5), 3), ("a", (6, 6), 3), ("b", (5, 5), 3), ("b", (6, 6), 3)}


def test_the_choice_is_spread_over_the_phase_even_when_successes_are_late(tmp_path: Path, make_group):
    steps = [0, 10, 20] + [47] * 10 + [48] * 20 + [49] * 40
    groups = [
        (make_group("a", (1.0, 0.0), versions=(0,), tokens=[[n], [0]], epoch=n), step) for n, step in enumerate(steps)
    ]
    write(tmp_path, BEGIN, *groups)
    report, rows = select(tmp_path, max_per_prompt=5)
    assert report.kept == 5
    strata = Counter(row["step"] * 5 // 50 for row in rows)
    assert strata == {0: 1, 1: 1, 2: 1, 4: 2}
    assert (report, rows) == select(tmp_path, max_per_prompt=5)  # the same choice every time


def test_one_answer_per_problem_can_be_asked_for(tmp_path: Path, make_group):
    write(tmp_path, BEGIN, (make_group("a", (1.0,) * 8), 0), (make_group("b", (1.0,) * 8), 3))
    assert select(tmp_path, max_per_prompt=1)[0].per_step == {0: 1, 3: 1}


def test_a_phase_taken_up_at_an_earlier_step_keeps_every_answer_it_had(tmp_path: Path, make_group):
    early, late = make_group("early", (1.0, 0.0), versions=(1,)), make_group("late", (1.0, 0.0), versions=(3,))
    new = make_group("new", (1.0, 0.0), versions=(4,))
    trained = [Trained((early.key,), 1), Trained((late.key,), 2)]
    write(tmp_path, BEGIN, (early, 0), (late, 1), *trained, PhaseBegun("rl", 0, 1, 50, done_steps=1), (new, 2))
    assert select(tmp_path)[0].per_step == {0: 1, 1: 1, 2: 1}


def test_a_compacted_journal_gives_the_same_experts(tmp_path: Path, make_group):
    history = [BEGIN, *((make_group(f"p{n}", (1.0, 0.0, 1.0), tokens=[[n, 1], [2, 2], [n, 3]]), n) for n in range(9))]
    write(tmp_path / "plain", *history)
    write(tmp_path / "compacted", *history, compacted=True)
    assert [path.name for path in sorted((tmp_path / "compacted").glob("segment*"))] == ["segment-000001.parquet"]
    plain, compacted = select(tmp_path / "plain", max_per_prompt=1), select(tmp_path / "compacted", max_per_prompt=1)
    assert plain == compacted
    assert plain[0].kept == 9


def test_success_rates_read_a_tenth_of_a_percent_exactly(tmp_path: Path, make_group):
    write(tmp_path, BEGIN, (make_group("a", (1.0, 0.0, 0.0, 0.0)), 0), (make_group("a", (1.0, 0.0), epoch=1), 0))
    assert select(tmp_path)[0].mean_success == pytest.approx(2 / 6)
