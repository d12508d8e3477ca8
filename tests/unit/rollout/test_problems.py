import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.config import SetConfig
from rollout.data_errors import Complaints, DataError
from rollout.problems import LoadedSet, RawProblem, load_problems
from verifiers.ifeval import IfEval
from verifiers.math_answer import MathAnswer
from verifiers.records import ScoreRequest

ROOT = Path(__file__).parents[3]
GRADE_SCHOOL = ROOT / "tests/data/grade_school.jsonl"
GSM8K = ROOT.parent / "shared/data/gsm8k/train.jsonl"

ASKED = [{"role": "user", "content": "2+2?"}]


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def load(path: Path, limit: int | None = None, known: Sequence[str] | None = None, **asked: Any) -> LoadedSet:
    complaints = Complaints()
    loaded = load_problems(SetConfig(path=path, **asked), complaints, limit, "math", known)
    complaints.settle()
    return loaded


def read(path: Path, limit: int | None = None, **asked: Any) -> list[RawProblem]:
    return load(path, limit, **asked).problems


def refusal(path: Path, **asked: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(path, **asked)
    return list(caught.value.problems)


# -- reading -------------------------------------------------------------------------------------------------------


def test_jsonl_rows_are_read_in_order_with_line_numbers_as_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "1+1?", "answer": "2"}, "", {"question": "2+2?", "answer": 4}])
    assert read(path) == [
        RawProblem("1", "1+1?", "2", "a.jsonl:1", extras='{"answer": "2"}'),
        RawProblem("3", "2+2?", "4", "a.jsonl:3", extras='{"answer": 4}'),
    ]


def test_parquet_rows_are_read_like_jsonl_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["x", "y"], "question": ["1+1?", "2+2?"], "answer": [2.5, 4.0]}), path)
    assert read(path, extra_keys=()) == [
        RawProblem("x", "1+1?", "2.5", "a.parquet:1"),
        RawProblem("y", "2+2?", "4.0", "a.parquet:2"),
    ]


def test_a_limit_takes_the_first_rows_and_looks_at_no_others(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer": "a", "id": i} for i in range(3)] + ["broken"])
    assert [problem.id for problem in read(path, limit=2)] == ["0", "1"]


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"question": "q", "answer": "a"}\n')
    assert len(read(path)) == 1


@pytest.mark.parametrize("path", [GRADE_SCHOOL, GSM8K], ids=["hand-written", "gsm8k"])
def test_grade_school_references_are_accepted_as_their_own_answers_and_rejected_one_off(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path.name} of {path.parent.name} is not on this machine")
    problems = read(path)
    assert len(problems) >= 24
    for problem in problems:
        final = problem.answer.rsplit("####", 1)[1].strip()
        for response, status in (
            (problem.answer, "correct"),
            (f"The answer is ${final}.", "correct"),
            ("#### 0.5", "wrong"),
        ):
            verdict = MathAnswer().score(ScoreRequest(problem.question, response, problem.answer))
            assert verdict.status == status, (problem.source, response, verdict)


# -- refusing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"question": "q", ', "a.jsonl:2: not JSON, "),
        ([1, 2], "a.jsonl:2: a row is a JSON object with named values, got '[1, 2]'"),
        ({"answer": "a"}, "a.jsonl:2: no 'question', the row has 'answer'; set data.question_key"),
        ({"question": "q", "answer": ""}, "a.jsonl:2: 'answer' must not be empty, got ''"),
        ({"question": "q", "answer": "  "}, "'answer' must not be empty, got '  '"),
        ({"question": "q", "answer": []}, "'answer' must not be empty, got []"),
        ({"question": None, "answer": "a"}, "'question' must be text or a number, got None"),
        ({"question": True, "answer": "a"}, "'question' must be text or a number, got True"),
        ({"question": ["q"], "answer": "a"}, "'question' as chat messages needs a role (system, user"),
        ({"question": [], "answer": "a"}, "must end with the user's, which the model answers, but it is empty"),
        ({"question": [{"role": "user", "content": " "}], "answer": "a"}, "and text in each, got {'role': 'user'"),
        ({"question": [*ASKED, {"role": "assistant", "content": "4"}], "answer": "a"}, "it ends with 'assistant'"),
        ({"question": "q", "answer": float("nan")}, "'answer' must not be empty, got nan"),
        ({"question": "q", "answer": "a", "id": "first"}, "a.jsonl:2: id 'first' is also that of row 1"),
    ],
)
def test_a_bad_row_is_refused_with_its_place_and_value(tmp_path: Path, row: Any, message: str) -> None:
    good = {"question": "q", "answer": "a", "id": "first"}
    (problem,) = refusal(write(tmp_path / "a.jsonl", [good, row]))
    assert message in problem


def test_text_that_is_not_utf8_is_refused_with_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"question": "q", "answer": "a"}\n{"question": "caf\xe9", "answer": "a"}\n')
    (problem,) = refusal(path)
    assert "a.jsonl:2: byte 18 of the line (b'\\xe9') is not UTF-8" in problem


def test_problems_are_collected_up_to_five(tmp_path: Path) -> None:
    good = {"question": "q", "answer": "a"}
    assert len(refusal(write(tmp_path / "a.jsonl", [good, *[{"question": "q"}] * 3]))) == 3
    many = refusal(write(tmp_path / "b.jsonl", [good, *[{"question": "q"}] * 9]))
    assert len(many) == 6
    assert many[-1].startswith("stopped after 5 problems")


def test_long_values_are_shortened(tmp_path: Path) -> None:
    (problem,) = refusal(write(tmp_path / "a.jsonl", [{"question": ["x" * 10_000], "answer": "a"}]))
    assert len(problem) < 500


def test_a_data_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(DataError(["one", "two"])))
    assert error.problems == ("one", "two")
    assert str(error) == "one\ntwo"


def test_bad_rows_may_be_skipped_and_are_all_listed(tmp_path: Path) -> None:
    good = {"question": "q", "answer": "a"}
    rows = [good, *[{"question": "q"}] * 7, "broken", {"answer": "a", "question": ""}, good]
    complaints = Complaints(skip=True)
    loaded = load_problems(SetConfig(path=write(tmp_path / "a.jsonl", rows)), complaints)
    assert [problem.id for problem in loaded.problems] == ["1", "11"]
    skipped = complaints.settle()
    assert [sentence.split(": ")[0].rpartition(":")[2] for sentence in skipped] == [str(row) for row in range(2, 11)]


def test_a_set_of_bad_rows_alone_is_refused_even_when_they_may_be_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer": ""}] * 3)
    with pytest.raises(DataError, match="holds no rows that can be used"):
        load_problems(SetConfig(path=path), Complaints(skip=True))


# -- rows as others write them -------------------------------------------------------------------------------------


VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2+2?"}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "4"},
    "extra_info": {"split": "train", "index": 7},
}


def test_verl_rows_are_read_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([VERL]), path)
    loaded = load(path)
    (problem,) = loaded.problems
    assert problem.question == "Be brief.\n\nWhat is 2+2?"
    assert problem.messages == (("system", "Be brief."), ("user", "What is 2+2?"))
    assert (problem.answer, problem.id) == ("4", "1")
    assert json.loads(problem.extras) == VERL
    assert loaded.note == (
        "train.parquet: 1 × verl rows: problem from 'prompt' (messages); reference from 'reward_model.ground_truth'; "
        "rows are numbered; also kept: data_source, ability, reward_model, extra_info"
    )


def test_trl_rows_are_read_unchanged_with_text_or_messages(tmp_path: Path) -> None:
    rows = [{"prompt": "2+2?", "solution": "4", "level": 1}, {"prompt": ASKED, "solution": "4", "level": 2}]
    loaded = load(write(tmp_path / "a.jsonl", rows))
    text, chat = loaded.problems
    assert (text.question, text.messages, text.answer) == ("2+2?", (), "4")
    assert (chat.question, chat.messages, chat.answer) == ("2+2?", (("user", "2+2?"),), "4")
    # a reward function of TRL's gets all columns: the reference too; text of the prompt it has, messages it wants
    assert json.loads(text.extras) == {"solution": "4", "level": 1}
    assert json.loads(chat.extras) == rows[1]
    assert "TRL rows: problem from 'prompt' (text); reference from 'solution'" in loaded.note


def test_trl_rows_need_no_answer_where_a_reward_function_of_trl_judges(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "Write a haiku.", "syllables": 17}])
    (problem,) = read(path, verifier="trl:mine:reward")
    assert (problem.answer, problem.verifier, json.loads(problem.extras)) == ("", "trl:mine:reward", {"syllables": 17})
    of_the_run = load_problems(SetConfig(path=path), Complaints(), verifier="trl:mine:reward").problems
    assert [(p.answer, p.verifier) for p in of_the_run] == [("", "")]
    assert read(path, answer_key="")[0].answer == ""
    (refused,) = refusal(path)
    assert (
        "a.jsonl:1: no 'answer', and no other column that looks like the answer; the row has 'prompt', 'syl" in refused
    )
    assert "set data.answer_key to the column that holds the answer ('' where the verifier needs none)" in refused


@pytest.mark.parametrize("beside", ["question", "problem", "query", "input"])
def test_the_prompt_of_a_chat_comes_before_the_bare_question_that_is_left_beside_it(
    tmp_path: Path, beside: str
) -> None:
    chat = [{"role": "system", "content": "Think first."}, *ASKED]
    loaded = load(write(tmp_path / "a.jsonl", [{beside: "2+2?", "prompt": chat, "answer": "4"}]))
    assert loaded.problems[0].messages == (("system", "Think first."), ("user", "2+2?"))
    assert loaded.note.startswith("a.jsonl: 1 × TRL rows: problem from 'prompt' (messages); reference from 'answer'")
    verl = VERL | {beside: "What is 2+2?", "answer": "so #### 5"}
    for prompt in (VERL["prompt"], "2+2? Mark the answer."):  # DAPO's rows have text and reward_model
        loaded = load(write(tmp_path / "b.jsonl", [verl | {"prompt": prompt}]))
        assert loaded.problems[0].answer == "4"
        assert "verl rows: problem from 'prompt'" in loaded.note
    text = load(write(tmp_path / "c.jsonl", [{beside: "2+2?", "prompt": "{}", "answer": "4"}])).note
    assert (beside in ("question", "problem")) == (f"problem from {beside!r} (text)" in text)


def test_parts_of_text_in_a_message_are_its_text(tmp_path: Path) -> None:
    content = [{"type": "text", "text": "What is "}, {"type": "text", "text": "2+2?"}]
    chat = [{"role": "user", "content": content}]
    (problem,) = read(write(tmp_path / "a.jsonl", [{"prompt": chat, "solution": "4"}]))
    assert (problem.question, problem.messages) == ("What is 2+2?", (("user", "What is 2+2?"),))
    assert json.loads(problem.extras)["prompt"] == chat  # as it was, for a reward function of TRL's
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"prompt": chat, "solution": "4"}]), path)
    assert read(path)[0].question == "What is 2+2?"


@pytest.mark.parametrize(
    "part", [{"type": "image"}, {"type": "image_url", "image_url": {"url": "x"}}, {"type": "text"}, {"text": "x"}, "x"]
)
def test_parts_that_are_no_text_are_refused_by_name(tmp_path: Path, part: Any) -> None:
    chat = [{"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}]
    (problem,) = refusal(write(tmp_path / "a.jsonl", [{"prompt": chat, "solution": "a cat"}]))
    assert "a.jsonl:1: 'prompt' as chat messages may have parts of type 'text' alone, a message of 'user'" in problem
    assert repr(part)[:40] in problem


@pytest.mark.parametrize("empty", ["", None, []])
def test_an_empty_system_message_is_kept_and_adds_nothing_to_the_question(tmp_path: Path, empty: Any) -> None:
    chat = [{"role": "system", "content": empty}, *ASKED]
    (problem,) = read(write(tmp_path / "a.jsonl", [{"prompt": chat, "solution": "4"}]))
    assert (problem.question, problem.messages) == ("2+2?", (("system", ""), ("user", "2+2?")))


@pytest.mark.parametrize("column", ["images", "image", "videos", "audios"])
def test_rows_with_pictures_or_sounds_are_refused_naming_the_column(tmp_path: Path, column: str) -> None:
    row = VERL | {column: [{"bytes": None, "path": "cat.png"}], "level": 2}
    path = write(tmp_path / "a.jsonl", [VERL | {column: []}, row])
    (problem,) = refusal(path)
    assert f"a.jsonl:2: '{column}' would be lost: models are asked in text alone; drop the row" in problem
    assert "name the further columns to keep in data.extra_keys" in problem
    assert json.loads(read(path, extra_keys=("level",))[1].extras) == {"level": 2, "prompt": VERL["prompt"]}


def test_ifevals_own_rows_are_read_without_settings(tmp_path: Path) -> None:
    row = {"key": 1000, "prompt": "Write.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    (problem,) = read(write(tmp_path / "a.jsonl", [row]), verifier="ifeval")
    assert (problem.question, problem.answer) == ("Write.", "")
    verdict = IfEval().score(ScoreRequest("", "No comma", problem.answer, extras=json.loads(problem.extras)))
    assert verdict.status == "correct"
    assert "set data.answer_key" in refusal(write(tmp_path / "b.jsonl", [row]))[0]  # for math it has no reference


# -- the verifier of a row -----------------------------------------------------------------------------------------


MIXED = [
    {"question": "2+2?", "answer": "4"},
    {"question": "Capital?", "answer": "Paris", "verifier": "exact"},
    {"question": "3+3?", "answer": "6", "verifier": None},
    {"question": "5+5?", "answer": "10", "verifier": "math"},
]


def test_a_row_names_its_verifier_and_the_others_have_that_of_the_set(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", MIXED)
    assert [p.verifier for p in read(path, known=("math", "exact"))] == ["", "exact", "", "math"]
    assert [p.verifier for p in read(path, verifier="numeric")] == ["numeric", "exact", "numeric", "math"]
    assert [p.verifier for p in read(path, verifier_key="")] == [""] * 4
    assert [p.verifier for p in read(path, known=("exact",), extra_keys=())] == ["", "exact", "", "math"]
    parquet = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(MIXED[1:]), parquet)
    loaded = load(parquet, known=("exact",), extra_keys=())
    assert [p.verifier for p in loaded.problems] == ["exact", "", "math"]
    assert "verifier from 'verifier'" in loaded.note
    judged = write(tmp_path / "b.jsonl", [row | {"meta": {"judge": "exact"}} for row in MIXED])
    assert {p.verifier for p in read(judged, verifier_key="meta.judge")} == {"exact"}


def test_a_row_that_names_a_verifier_the_run_has_not_is_refused_with_the_remedies(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", MIXED)
    (problem,) = refusal(path, known=("math", "code"))
    assert problem.startswith(f"{path}:2: 'verifier' names the verifier 'exact', the run has code, math; give it")
    assert "verifier.others={exact: {}}, or have the column left unread with data.verifier_key=''" in problem
    assert (
        "'verifier' must be text or a number, got ['a']"
        in refusal(write(tmp_path / "b.jsonl", [MIXED[0] | {"verifier": ["a"]}]))[0]
    )
    assert (
        "no 'judge', the row has 'question', 'answer'; set data.verifier_key, or null"
        in refusal(write(tmp_path / "c.jsonl", MIXED[:1]), verifier_key="judge")[0]
    )


def test_rows_whose_verifier_needs_no_reference_may_have_none_beside_rows_that_have_one(tmp_path: Path) -> None:
    gym = {"question": "Solve.", "reference": "", "verifier": "reasoning_gym", "task": "sudoku", "entry": {}}
    path = write(tmp_path / "a.jsonl", [gym, {"question": "2+2?", "reference": "4"}])
    assert [(p.answer, p.verifier) for p in read(path)] == [("", "reasoning_gym"), ("4", "")]
    without = {"question": "Be brief.", "verifier": "length"}
    assert [p.answer for p in read(write(tmp_path / "b.jsonl", [without, MIXED[0]]))] == ["", "4"]
    (problem,) = refusal(write(tmp_path / "c.jsonl", [without, {"question": "2+2?"}]))
    assert problem.endswith("c.jsonl:2: no reference, and 'math' needs one; set data.answer_key")
    (problem,) = refusal(write(tmp_path / "d.jsonl", [gym, {"question": "2+2?", "reference": ""}]))
    assert "d.jsonl:2: 'reference' must not be empty" in problem


# -- further layouts -----------------------------------------------------------------------------------------------


def test_openrlhf_rows_are_read_unchanged(tmp_path: Path) -> None:
    rows = [{"input": "2+2?", "label": "4", "datasource": "sums"}, {"input": ASKED, "label": "4"}]
    loaded = load(write(tmp_path / "a.jsonl", rows))
    assert [(p.question, p.answer) for p in loaded.problems] == [("2+2?", "4")] * 2
    assert "OpenRLHF rows: problem from 'input' (text); reference from 'label'" in loaded.note
    chat = load(write(tmp_path / "b.jsonl", [{"context_messages": ASKED, "label": "4"}]))
    assert chat.problems[0].messages == (("user", "2+2?"),)
    assert "OpenRLHF rows: problem from 'context_messages' (messages)" in chat.note


def test_any_columns_will_do_when_they_are_named_with_dots_for_what_lies_inside(tmp_path: Path) -> None:
    row = {
        "meta": {"key": "k1", "kind": "algebra"},
        "chat": [{"text": "hi"}, {"text": "2+2?"}],
        "gold": {"final": 4, "worked": "2+2 is #### 4"},
        "a.b": "plain",
    }
    asked = {
        "question_key": "chat.1.text",
        "answer_key": "gold.final",
        "id_key": "meta.key",
        "tag_key": "meta.kind",
        "response_key": "gold.worked",
        "extra_keys": ("a.b", "meta.kind", "absent"),
    }
    loaded = load(write(tmp_path / "a.jsonl", [row]), **asked)
    assert loaded.problems == [
        RawProblem(
            "k1",
            "2+2?",
            "4",
            "a.jsonl:1",
            tag="algebra",
            extras='{"a.b": "plain", "meta.kind": "algebra"}',
            response="2+2 is #### 4",
        )
    ]
    assert (
        "as the recipe says: problem from 'chat.1.text' (text); reference from 'gold.final'; id from 'm" in loaded.note
    )


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ({"entry": "add", "cases": [[[2, 3], 5]]}, '{"entry": "add", "cases": [[[2, 3], 5]]}'),
        (["4", "four"], '["4", "four"]'),
        (4, "4"),
        (4.5, "4.5"),
        (True, "true"),
        (0, "0"),
        ("√2", "√2"),
    ],
)
def test_a_reference_that_is_no_text_becomes_json(tmp_path: Path, reference: Any, text: str) -> None:
    assert read(write(tmp_path / "a.jsonl", [{"question": "q", "answer": reference}]))[0].answer == text


def test_a_column_with_something_in_it_comes_before_an_empty_one(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": None, "solution": "4", "input": ""}]
    assert read(write(tmp_path / "a.jsonl", rows))[0].answer == "4"


def test_columns_are_found_by_the_first_row_that_can_be_read(tmp_path: Path) -> None:
    complaints = Complaints(skip=True)
    path = write(tmp_path / "a.jsonl", ["broken", {"x": 1}, {"problem": "q", "answer": "a"}])
    assert [p.id for p in load_problems(SetConfig(path=path), complaints).problems] == ["3"]
    assert [sentence.split(": ")[0] for sentence in complaints.settle()] == [f"{path}:1", f"{path}:2"]


def test_what_json_has_not_becomes_text_and_pictures_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {
        "question": ["q"],
        "answer": ["a"],
        "when": pa.array([0], pa.timestamp("s")),
        "thumbnail": [b"\x89PNG"],
        "inside": [{"image": b"\x89PNG", "size": 2}],
    }
    pq.write_table(pa.table(columns), path)
    assert json.loads(read(path)[0].extras) == {
        "answer": "a",
        "when": "1970-01-01 00:00:00",
        "thumbnail": None,
        "inside": {"image": None, "size": 2},
    }


def test_rows_of_several_files_are_numbered_within_each(tmp_path: Path) -> None:
    for shard in range(2):
        write(tmp_path / f"train-{shard:05}-of-00002.jsonl", [{"question": f"{shard}{i}", "answer": "a"} for i in "ab"])
    problems = read(tmp_path)
    assert [p.question for p in problems] == ["0a", "0b", "1a", "1b"]
    assert [p.id for p in problems][1:3] == ["train-00000-of-00002.jsonl:2", "train-00001-of-00002.jsonl:1"]
    assert len({p.id for p in problems}) == 4
    assert problems[2].source == f"{tmp_path.name}/train-00001-of-00002.jsonl:1"
