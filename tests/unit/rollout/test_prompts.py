import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rollout.prompts import DataError, RawProblem, encode_prompts, load_prompts
from verifiers.math_answer import MathAnswer
from verifiers.records import ScoreRequest

ROOT = Path(__file__).parents[3]
GRADE_SCHOOL = ROOT / "tests/data/grade_school.jsonl"
GSM8K = ROOT.parent / "shared/data/gsm8k/train.jsonl"


class Characters:
    """A tokenizer with one token per character; with a template when asked for."""

    def __init__(self, template: str | None = None, forget: str = "", unknown: str = "") -> None:
        self.chat_template = template
        self._forget = forget
        self._unknown = unknown

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        if self._unknown and self._unknown in text:
            raise KeyError(self._unknown)
        return [1] * add_special_tokens + [ord(c) for c in text if c not in self._forget]

    def decode(self, token_ids: list[int]) -> str:
        return "".join(map(chr, token_ids))

    def apply_chat_template(
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str:
        assert self.chat_template is not None
        assert not tokenize
        assert add_generation_prompt
        return self.chat_template.format(**conversation[0])


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def refusal(path: Path, **keys: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        load_prompts(path, **{"question_key": "question", "answer_key": "answer", **keys})
    return list(caught.value.problems)


def read(path: Path, limit: int | None = None) -> list[RawProblem]:
    return load_prompts(path, "question", "answer", "id", limit)


# -- reading -------------------------------------------------------------------------------------------------------


def test_jsonl_rows_are_read_in_order_with_line_numbers_as_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "1+1?", "answer": "2"}, "", {"question": "2+2?", "answer": 4}])
    assert read(path) == [RawProblem("1", "1+1?", "2", "a.jsonl:1"), RawProblem("3", "2+2?", "4", "a.jsonl:3")]


def test_parquet_rows_are_read_like_jsonl_rows(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["x", "y"], "question": ["1+1?", "2+2?"], "answer": [2.5, 4.0]}), path)
    assert read(path) == [RawProblem("x", "1+1?", "2.5", "a.parquet:1"), RawProblem("y", "2+2?", "4.0", "a.parquet:2")]


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


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(tmp_path / "none.jsonl")[0]
    assert "is a directory" in refusal(tmp_path)[0]
    (tmp_path / "a.csv").write_text("question,answer")
    assert "end in .jsonl or .parquet, got '.csv'" in refusal(tmp_path / "a.csv")[0]
    (tmp_path / "empty.jsonl").write_text("")
    assert "is empty" in refusal(tmp_path / "empty.jsonl")[0]
    assert "holds no rows" in refusal(write(tmp_path / "blank.jsonl", ["", " "]))[0]
    (tmp_path / "a.parquet").write_text("question,answer")
    assert "not a Parquet file" in refusal(tmp_path / "a.parquet")[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"question": "q", ', "a.jsonl:2: not JSON, "),
        ([1, 2], "a.jsonl:2: a row is a JSON object with named values, got '[1, 2]'"),
        ({"answer": "a"}, "a.jsonl:2: no 'question', the row has 'answer'; set data.question_key"),
        ({"question": "q", "answer": ""}, "a.jsonl:2: 'answer' must be text or a number, got ''"),
        ({"question": "q", "answer": "  "}, "'answer' must be text or a number, got '  '"),
        ({"question": None, "answer": "a"}, "'question' must be text or a number, got None"),
        ({"question": ["q"], "answer": "a"}, "'question' must be text or a number, got ['q']"),
        ({"question": "q", "answer": True}, "'answer' must be text or a number, got True"),
        ({"question": "q", "answer": float("nan")}, "'answer' must be text or a number, got nan"),
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
    assert len(refusal(write(tmp_path / "a.jsonl", [{"question": "q"}] * 3))) == 3
    many = refusal(write(tmp_path / "b.jsonl", [{"question": "q"}] * 9))
    assert len(many) == 6
    assert many[-1].startswith("stopped after 5 problems")


def test_long_values_are_shortened(tmp_path: Path) -> None:
    (problem,) = refusal(write(tmp_path / "a.jsonl", [{"question": ["x" * 10_000], "answer": "a"}]))
    assert len(problem) < 400


def test_a_data_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(DataError(["one", "two"])))
    assert error.problems == ("one", "two")
    assert str(error) == "one\ntwo"


# -- encoding ------------------------------------------------------------------------------------------------------

PROBLEM = RawProblem("7", "1+1?", "2", "a.jsonl:1", "sums")


def test_without_a_template_the_prompt_is_instruction_and_question() -> None:
    (prompt,) = encode_prompts([PROBLEM], Characters(), "Be brief.", context_length=64)
    assert prompt.token_ids == (1, *map(ord, "Be brief.\n\n1+1?"))
    assert (prompt.id, prompt.text, prompt.reference, prompt.source, prompt.tag) == (
        "7",
        "1+1?",
        "2",
        "a.jsonl:1",
        "sums",
    )
    (bare,) = encode_prompts([PROBLEM], Characters(), "", context_length=64)
    assert bare.token_ids == (1, *map(ord, "1+1?"))


def test_with_a_template_special_tokens_come_from_it_alone() -> None:
    (prompt,) = encode_prompts([PROBLEM], Characters("<{role}>{content}<assistant>"), "", context_length=64)
    assert prompt.token_ids == tuple(map(ord, "<user>1+1?<assistant>"))


def test_a_prompt_leaves_room_for_one_token() -> None:
    assert len(encode_prompts([PROBLEM], Characters(), "", context_length=6)) == 1
    with pytest.raises(DataError, match=r"a.jsonl:1 \(id '7'\): the prompt has 5 tokens and .*=5 leaves room for 4"):
        encode_prompts([PROBLEM], Characters(), "", context_length=5)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (Characters("<{role}>"), "does not survive encoding, it comes back as '<user>'"),
        (Characters(forget="?"), "does not survive encoding"),
        (Characters("{system}"), "the chat template refuses '1.1.': KeyError: .*system"),
        (Characters(unknown="+"), "the tokenizer refuses '1.1.': KeyError"),
    ],
)
def test_what_a_tokenizer_cannot_represent_is_refused(tokenizer: Characters, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode_prompts([PROBLEM], tokenizer, "", context_length=64)
