import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rollout.datasets import SupervisedDataset
from rollout.events import Finished, JournalDamaged, Leased, PhaseBegun, Trained
from rollout.expert_report import ExpertReport
from rollout.expert_rule import ExpertRule
from rollout.experts import select_experts
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
    rule = ExpertRule(tau_hard, max_per_prompt, seed=5)
    report = select_experts(LocalDisk(directory), 0, rule, directory / "out.parquet")
    return report, pq.read_table(directory / "out.parquet").to_pylist()


BEGIN = PhaseBegun("rl", 0, 0, 50)


def test_correct_answers_of_all_steps_are_kept_with_their_provenance(tmp_path: Path, make_group):
    first = make_group("a", (1.0, 0.0, 0.9), versions=(3, 4), tokens=[[1, 2], [3, 4], [5, 6]])
    second = make_group("b", (0.0, 1.0), versions=(9,), epoch=1)
    write(tmp_path, BEGIN, (first, 4), (second, 9))
    report, rows = select(tmp_path)
    assert report == ExpertReport(
        attempts=5,
        correct=3,
        kept=3,
        tokens=5,
        prompts=2,
        prompts_kept=2,
        per_step={4: 2, 9: 1},
        mean_success=(2 / 3 + 1 / 2) / 2,
        diversity=1.0,
    )
    assert rows[0] == {
        "prompt_ids": [7, 8, 9],
        "response_ids": [1, 2],
        "loss_mask": [True, True],
        "prompt_id": "a",
        "epoch": 0,
        "sample_index": 0,
        "step": 4,
        "version": 4,
        "reward": 1.0,
        "success_rate": 2 / 3,
    }
    assert [(r["prompt_id"], r["sample_index"], r["response_ids"]) for r in rows[1:]] == [
        ("a", 2, [5, 6]),
        ("b", 1, [101]),
    ]
    assert len(SupervisedDataset(tmp_path / "out.parquet")) == 3  # it is a supervised file


def test_what_a_tool_said_is_not_imitated(tmp_path: Path, make_group):
    group = make_group("a", (1.0, 0.0), versions=(0, 0, 0), tokens=[[1, 2, 3], [4, 5, 6]])
    told = replace(group.rollouts[0], loss_mask=np.array([True, False, True]))
    write(tmp_path, BEGIN, (replace(group, rollouts=(told, group.rollouts[1])), 0))
    select(tmp_path)
    (example,) = map(SupervisedDataset(tmp_path / "out.parquet").__getitem__, range(1))
    assert example.response_ids.tolist() == [1, 2, 3]
    assert example.loss_mask.tolist() == [True, False, True]


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
    report, rows = select(tmp_path)
    assert rows == []
    assert report == ExpertReport(attempts=2, correct=1, truncated=1, prompts=1, per_step={0: 0})


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
    assert (report.correct, report.duplicates, report.kept) == (7, 3, 4)
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


def test_an_evaluation_in_the_middle_of_a_phase_does_not_end_it(tmp_path: Path, make_group):
    held_out = make_group("held out", purpose="eval")
    write(tmp_path, BEGIN, (make_group("a"), 0), PhaseBegun("eval", 1000, 5), (held_out, 0), (make_group("b"), 7))
    assert select(tmp_path)[0].per_step == {0: 1, 7: 1}


def test_a_phase_that_only_samples_has_an_expert_set_too(tmp_path: Path, make_group):
    write(tmp_path, PhaseBegun("sample", 0, 0), (make_group("a"), 0), PhaseBegun("sample", 1, 0), (make_group("b"), 0))
    assert [row["prompt_id"] for row in select(tmp_path)[1]] == ["a"]


def test_what_a_crash_left_at_the_end_of_the_last_segment_is_not_looked_at(tmp_path: Path, make_group):
    write(tmp_path, BEGIN, *((make_group(f"p{n}", (1.0, 0.0)), n) for n in range(3)))
    write(tmp_path, *((make_group(f"q{n}", (1.0, 0.0)), n) for n in range(3)))  # another writer, another segment
    before = select(tmp_path)
    last = max(tmp_path.glob("segment-*.arrow"))
    lost = to_batch(make_group("lost"), 0, 9).serialize()
    last.write_bytes(last.read_bytes().removesuffix(b"\xff\xff\xff\xff\0\0\0\0") + lost.slice(0, 300).to_pybytes())
    assert before[0].kept == 6
    assert select(tmp_path) == before


def test_an_answer_that_the_log_names_and_the_disk_does_not_have_is_damage(tmp_path: Path, make_group):
    write(tmp_path, BEGIN, *((make_group(f"p{n}", (1.0, 0.0)), n) for n in range(3)))
    segment = tmp_path / "segment-000001.arrow"
    segment.write_bytes(segment.read_bytes()[:-200])
    with pytest.raises(JournalDamaged, match=r"ends before record batches \[2\]"):
        select(tmp_path)
    assert not (tmp_path / "out.parquet").exists()


def test_without_a_file_the_report_is_the_same(tmp_path: Path, make_group):
    answers = [make_group("a", (1.0, 0.0, 1.0), epoch=n, tokens=[[n, 1], [0, 0], [n, 2]]) for n in range(20)]
    write(tmp_path, BEGIN, (make_group("alone"), 0), *((group, n) for n, group in enumerate(answers)))
    report, _ = select(tmp_path, max_per_prompt=30)
    assert report.kept == 31  # 16 of which are compared
    assert select_experts(LocalDisk(tmp_path), 0, ExpertRule(1.0, 30, seed=5), None) == report


def test_an_iteration_without_groups_is_an_empty_set(tmp_path: Path, make_group):
    write(tmp_path, BEGIN)
    assert select(tmp_path) == (ExpertReport(), [])


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path, make_group):
    write(tmp_path, BEGIN, (make_group("a"), 0))
    rows = select(tmp_path)[1]
    (tmp_path / "segment-000001.arrow").unlink()
    with pytest.raises(JournalDamaged):
        select(tmp_path)
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.log", "lock", "out.parquet"]


def test_success_rates_read_a_tenth_of_a_percent_exactly(tmp_path: Path, make_group):
    write(tmp_path, BEGIN, (make_group("a", (1.0, 0.0, 0.0, 0.0)), 0), (make_group("a", (1.0, 0.0), epoch=1), 0))
    assert select(tmp_path)[0].mean_success == pytest.approx(2 / 6)
