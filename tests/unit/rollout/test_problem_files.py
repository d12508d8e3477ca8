import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rollout.config import DataConfig
from rollout.problem_files import load_files
from rollout.prompts import DataError


def write(path: Path, questions: list[str], **columns: list[Any]) -> Path:
    rows = [
        {"question": question, "answer": "1"} | {name: values[i] for name, values in columns.items()}
        for i, question in enumerate(questions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def numbered(name: str, count: int) -> list[str]:
    return [f"{name} {i}?" for i in range(count)]


def refusal(data: DataConfig) -> list[str]:
    with pytest.raises(DataError) as refused:
        load_files(data)
    return list(refused.value.problems)


def test_a_share_of_the_rows_is_held_out_the_same_in_every_run(tmp_path: Path) -> None:
    data = DataConfig(path=write(tmp_path / "a.jsonl", numbered("a", 40)), eval_fraction=0.25)
    train, held_out = load_files(data)
    assert (len(train), len(held_out)) == (30, 10)
    assert not {p.question for p in train} & {p.question for p in held_out}
    assert {p.tag for p in held_out} == {"held-out"}
    assert load_files(data) == (train, held_out)


def test_rows_that_ask_the_same_stay_on_one_side(tmp_path: Path) -> None:
    questions = [f"what is  {i}?" for i in range(20)] + [f"What is {i}?" for i in range(20)]
    for fraction in (0.1, 0.3, 0.5):
        data = DataConfig(path=write(tmp_path / "a.jsonl", questions), eval_fraction=fraction)
        train, held_out = load_files(data)
        assert (len(train), len(held_out)) == (40 - round(40 * fraction), round(40 * fraction))
        numbers = [{p.question.lower().replace("  ", " ") for p in side} for side in (train, held_out)]
        assert not numbers[0] & numbers[1]


def test_further_sets_are_reported_under_their_names_and_keep_their_rows_apart(tmp_path: Path) -> None:
    data = DataConfig(
        path=write(tmp_path / "train.jsonl", numbered("train", 5)),
        eval_path=write(tmp_path / "test.jsonl", numbered("test", 3)),
        eval_sets={
            "aime": write(tmp_path / "aime.jsonl", numbered("aime", 2)),
            "hard": write(tmp_path / "hard.jsonl", numbered("hard", 4), tag=["x"] * 4),
        },
    )
    train, held_out = load_files(data)
    assert len(train) == 5
    assert Counter(p.tag for p in held_out) == {"held-out": 3, "aime": 2, "hard": 4}
    assert [p.id for p in held_out] == ["1", "2", "3", "aime/1", "aime/2", "hard/1", "hard/2", "hard/3", "hard/4"]


def test_a_column_may_name_the_sets(tmp_path: Path) -> None:
    levels = [1, "algebra", None, 1]
    data = DataConfig(
        path=write(tmp_path / "train.jsonl", numbered("train", 2)),
        eval_path=write(tmp_path / "test.jsonl", numbered("test", 4), level=levels),
        tag_key="level",
    )
    assert [p.tag for p in load_files(data)[1]] == ["1", "algebra", "held-out", "1"]


def test_a_tag_that_is_no_text_is_refused_with_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", numbered("a", 4), level=["x", ["y"], "x", ""])
    problems = refusal(DataConfig(path=path, tag_key="level"))
    assert [problem.split(": ")[0] for problem in problems] == [f"{path}:2", f"{path}:4"]
    assert "'level' must be text or a number, got ['y']" in problems[0]


@pytest.mark.parametrize("where", ["eval_path", "eval_sets"])
def test_a_problem_that_is_trained_and_held_out_is_refused_with_both_places(tmp_path: Path, where: str) -> None:
    train = write(tmp_path / "train.jsonl", [*numbered("a", 5), "What is  ½ + ½?"])
    other = write(tmp_path / "other.jsonl", [*numbered("b", 2), "what is 1⁄2 + ½?"])
    data = DataConfig(path=train, **{"eval_path": other} if where == "eval_path" else {"eval_sets": {"b": other}})
    (problem,) = refusal(data)
    tag = "held-out" if where == "eval_path" else "b"
    assert problem.startswith(f"other.jsonl:3 (set {tag!r}) is also the training problem train.jsonl:6: 'what is 1⁄2")


def test_what_a_limit_leaves_out_of_training_may_be_held_out(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", numbered("a", 6))
    other = write(tmp_path / "other.jsonl", ["a 5?"])
    assert len(load_files(DataConfig(path=train, eval_path=other, limit=5))[1]) == 1
    assert "train.jsonl:6" in refusal(DataConfig(path=train, eval_path=other, limit=6))[0]


def test_many_problems_that_are_in_both_are_shown_in_part_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", numbered("a", 12))
    problems = refusal(DataConfig(path=path, eval_path=path))
    assert len(problems) == 6
    assert problems[-1] == "12 problems in all"


def test_what_is_wrong_with_several_files_is_told_together(tmp_path: Path) -> None:
    data = DataConfig(
        path=write(tmp_path / "a.jsonl", ["", "b?"]),
        eval_path=tmp_path / "none.jsonl",
        eval_sets={"c": write(tmp_path / "c.jsonl", [" "])},
    )
    assert [problem.split(":")[0].rpartition("/")[2] for problem in refusal(data)] == [
        "a.jsonl",
        "none.jsonl",
        "c.jsonl",
    ]
