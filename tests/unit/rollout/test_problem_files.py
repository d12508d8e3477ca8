import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rollout.config import DataConfig
from rollout.data_errors import DataError
from rollout.problem_files import ProblemFiles, load_files
from rollout.problems import RawProblem


def write(path: Path, questions: list[str], **columns: list[Any]) -> Path:
    rows = [
        {"question": question, "answer": "1"} | {name: values[i] for name, values in columns.items()}
        for i, question in enumerate(questions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def numbered(name: str, count: int) -> list[str]:
    return [f"{name} {i}?" for i in range(count)]


def sides(files: ProblemFiles) -> tuple[list[RawProblem], list[RawProblem]]:
    return [problem for source in files.train for problem in source.problems], files.held_out


def refusal(data: DataConfig) -> list[str]:
    with pytest.raises(DataError) as refused:
        load_files(data)
    return list(refused.value.problems)


def test_a_share_of_the_rows_is_held_out_the_same_in_every_run(tmp_path: Path) -> None:
    data = DataConfig(path=write(tmp_path / "a.jsonl", numbered("a", 40)), eval_fraction=0.25)
    train, held_out = sides(load_files(data))
    assert (len(train), len(held_out)) == (30, 10)
    assert not {p.question for p in train} & {p.question for p in held_out}
    assert {p.tag for p in held_out} == {"held-out"}
    assert sides(load_files(data)) == (train, held_out)


def test_rows_that_ask_the_same_stay_on_one_side(tmp_path: Path) -> None:
    questions = [f"what is  {i}?" for i in range(20)] + [f"What is {i}?" for i in range(20)]
    for fraction in (0.1, 0.3, 0.5):
        data = DataConfig(path=write(tmp_path / "a.jsonl", questions), eval_fraction=fraction)
        train, held_out = sides(load_files(data))
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
    train, held_out = sides(load_files(data))
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
    assert [p.tag for p in load_files(data).held_out] == ["1", "algebra", "held-out", "1"]


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
    assert len(load_files(DataConfig(path=train, eval_path=other, limit=5)).held_out) == 1
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


# -- mixtures ------------------------------------------------------------------------------------------------------


def mixture(tmp_path: Path, **more: Any) -> DataConfig:
    sources = [
        {"path": write(tmp_path / "a.jsonl", numbered("a", 30)), "weight": 3.0},
        {"path": write(tmp_path / "b.jsonl", numbered("b", 10)), "weight": 1.0, "verifier": "exact", "name": "words"},
    ]
    return DataConfig.model_validate({"sources": sources} | more)


def test_sources_keep_their_names_weights_and_verifiers(tmp_path: Path) -> None:
    files = load_files(mixture(tmp_path, eval_path=write(tmp_path / "test.jsonl", ["t?"])))
    a, words = files.train
    assert (a.name, a.weight, len(a.problems)) == ("a", 3.0, 30)
    assert (words.name, words.weight, len(words.problems)) == ("words", 1.0, 10)
    assert [p.id for p in a.problems][:2] == ["a/1", "a/2"]
    assert [p.id for p in words.problems][:2] == ["words/1", "words/2"]
    assert {p.verifier for p in a.problems} == {""}
    assert {p.verifier for p in words.problems} == {"exact"}
    assert files.notes[1].endswith("; verifier exact")


def test_what_is_held_out_of_several_sources_is_a_set_of_each_with_its_verifier(tmp_path: Path) -> None:
    files = load_files(mixture(tmp_path, eval_fraction=0.2))
    assert len(files.held_out) == 8
    assert Counter((p.tag, p.verifier) for p in files.held_out) == {("a", ""): 6, ("words", "exact"): 2}
    assert sum(len(source.problems) for source in files.train) == 32
    assert not {p.id for p in files.held_out} & {p.id for source in files.train for p in source.problems}


def test_a_limit_counts_for_each_source_unless_it_has_its_own(tmp_path: Path) -> None:
    data = mixture(tmp_path, limit=6, eval_path=write(tmp_path / "test.jsonl", ["t?"]))
    assert [len(source.problems) for source in load_files(data).train] == [6, 6]
    sources = [data.sources[0].model_copy(update={"limit": 2}), data.sources[1]]
    limited = data.model_copy(update={"sources": tuple(sources)})
    assert [len(source.problems) for source in load_files(limited).train] == [2, 6]


def test_a_source_says_for_itself_what_data_says_for_all(tmp_path: Path) -> None:
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"ask": "c?", "question": "decoy", "answer": "1"}\n{"ask": "d?", "question": "x", "answer": "1"}\n')
    sources = [{"path": write(tmp_path / "a.jsonl", ["a?", "b?"])}, {"path": odd, "question_key": "ask"}]
    data = DataConfig.model_validate(
        {"sources": sources, "question_key": "question", "eval_path": write(tmp_path / "t.jsonl", ["t?"])}
    )
    assert [[p.question for p in source.problems] for source in load_files(data).train] == [["a?", "b?"], ["c?", "d?"]]


def test_a_held_out_set_may_be_a_split_with_a_verifier_of_its_own(tmp_path: Path) -> None:
    repository = tmp_path / "set"
    repository.mkdir()
    write(repository / "train.jsonl", numbered("a", 3))
    write(repository / "test.jsonl", numbered("b", 2))
    data = DataConfig.model_validate(
        {
            "path": repository,
            "eval_path": {"path": repository, "split": "test"},
            "eval_sets": {"hard": {"path": write(tmp_path / "h.jsonl", ["h?"]), "verifier": "exact"}},
        }
    )
    train, held_out = sides(load_files(data))
    assert [p.question for p in train] == numbered("a", 3)
    assert [(p.question, p.tag, p.verifier) for p in held_out] == [
        ("b 0?", "held-out", ""),
        ("b 1?", "held-out", ""),
        ("h?", "hard", "exact"),
    ]


def test_skipped_rows_are_listed_over_all_files(tmp_path: Path) -> None:
    data = DataConfig(
        path=write(tmp_path / "a.jsonl", ["a?", ""]),
        eval_path=write(tmp_path / "b.jsonl", ["", "b?"]),
        on_bad_row="skip",
    )
    files = load_files(data)
    assert [p.question for p in (*files.train[0].problems, *files.held_out)] == ["a?", "b?"]
    assert [why.split(": ")[0].rpartition("/")[2] for why in files.skipped] == ["a.jsonl:2", "b.jsonl:1"]


def test_what_comes_from_one_place_is_one_set_to_be_checked(tmp_path: Path) -> None:
    """Held-out rows of a source are no set of their own: their file is checked anyway."""
    assert [(name, len(problems)) for name, problems in load_files(mixture(tmp_path)).sets] == [("a", 27), ("words", 9)]
    data = mixture(
        tmp_path,
        eval_path=write(tmp_path / "t.jsonl", ["t?"]),
        eval_sets={"hard": write(tmp_path / "h.jsonl", ["h?", "i?"])},
    )
    files = load_files(data)
    assert [(name, len(problems)) for name, problems in files.sets] == [
        ("a", 30),
        ("words", 10),
        ("held-out", 1),
        ("hard", 2),
    ]
    assert [p.id for p in files.held_out] == ["1", "hard/1", "hard/2"]
