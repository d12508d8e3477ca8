"""Reads problems from JSONL or Parquet and encodes them as prompts. Refuses bad data before any GPU is taken.

Up to five problems are collected before anything is refused, so that they can be mended together; each names
file, row, key, value and remedy. Takes a tokenizer as an object; loads none.
"""

import json
import math
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rollout.records import Prompt

_MAX_PROBLEMS = 5
_MAX_SHOWN = 60  # characters of a value in a message


class DataError(ValueError):
    """Data that cannot be used; one line per problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type["DataError"], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)  # it crosses processes


@dataclass(frozen=True, slots=True)
class RawProblem:
    """One row of data, checked but not encoded."""

    id: str
    question: str
    answer: str
    source: str
    """Where it came from, e.g. `train.jsonl:17`."""
    tag: str = ""
    """The held-out set that evaluation reports it in."""


class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    chat_template: Any

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...  # noqa: D102
    def decode(self, token_ids: list[int]) -> str: ...  # noqa: D102
    def apply_chat_template(  # noqa: D102
        self, conversation: list[dict[str, str]], *, tokenize: bool, add_generation_prompt: bool
    ) -> str: ...


class _Complaints:
    """Collects problems; gives up at the fifth."""

    def __init__(self) -> None:
        self._problems: list[str] = []

    def add(self, problem: str) -> None:
        self._problems.append(problem)
        if len(self._problems) == _MAX_PROBLEMS:
            raise DataError([*self._problems, f"stopped after {_MAX_PROBLEMS} problems; there may be more"])

    def raise_if_any(self) -> None:
        if self._problems:
            raise DataError(self._problems)


def load_prompts(
    path: Path,
    question_key: str,
    answer_key: str,
    id_key: str = "id",
    limit: int | None = None,
    tag_key: str | None = None,
) -> list[RawProblem]:
    """The problems in a JSONL or Parquet file, in its order; at most the first `limit`.

    Question, answer and tag are non-empty strings; numbers are taken as they are written. Where a row has no id its
    line number is one; it need not have a tag. Rows after `limit` are not looked at.

    Raises:
        DataError: Naming up to five rows that cannot be used, or saying why the file cannot.
    """
    rows = _read_rows(path)
    complaints = _Complaints()
    loaded: list[RawProblem] = []
    first_with: dict[str, int] = {}
    for number, row in rows:
        if len(loaded) == limit:
            break
        where = f"{path}:{number}"
        if isinstance(row, _Unreadable):
            complaints.add(f"{where}: {row.why}")
            continue
        question = _text(row, question_key, "data.question_key", where, complaints)
        answer = _text(row, answer_key, "data.answer_key", where, complaints)
        row_id = _text(row, id_key, "data.id_key", where, complaints) if row.get(id_key) is not None else str(number)
        tag = "" if not tag_key or row.get(tag_key) is None else _text(row, tag_key, "data.tag_key", where, complaints)
        if question is None or answer is None or row_id is None or tag is None:
            continue
        if row_id in first_with:
            complaints.add(
                f"{where}: {id_key} {_shown(row_id)} is also that of row {first_with[row_id]}; give every row "
                f"its own, or set data.id_key to a column that is not there to number the rows"
            )
            continue
        first_with[row_id] = number
        loaded.append(RawProblem(row_id, question, answer, source=f"{path.name}:{number}", tag=tag))
    complaints.raise_if_any()
    if not loaded:
        raise DataError([f"{path}: holds no rows; a data file has one problem per row"])
    return loaded


def encode_prompts(
    problems: Sequence[RawProblem], tokenizer: Tokenizer, instruction: str, context_length: int
) -> list[Prompt]:
    """Prompts as the engine takes them: instruction, blank line, question; in the tokenizer's chat template if any.

    A prompt leaves at least one token of `context_length` for the answer.

    Raises:
        DataError: Naming up to five problems that are too long or that the tokenizer cannot represent.
    """
    complaints = _Complaints()
    prompts: list[Prompt] = []
    for problem in problems:
        content = f"{instruction}\n\n{problem.question}" if instruction else problem.question
        where = f"{problem.source} (id {_shown(problem.id)})"
        try:
            token_ids = _encode(tokenizer, content)
            kept = _written(content) in _written(tokenizer.decode(token_ids))
        except Exception as error:  # a template is a program of the model's author, and raises what it likes
            what = "the chat template" if tokenizer.chat_template else "the tokenizer"
            complaints.add(
                f"{where}: {what} refuses {_shown(content)}: {type(error).__name__}: {_shown(str(error))}; "
                f"take out what it does not know, or use another model"
            )
            continue
        if not kept:
            complaints.add(
                f"{where}: {_shown(content)} does not survive encoding, it comes back as "
                f"{_shown(tokenizer.decode(token_ids))}; its chat template or tokenizer drops text: use another model"
            )
        elif len(token_ids) > context_length - 1:
            complaints.add(
                f"{where}: the prompt has {len(token_ids)} tokens and rollout.context_length={context_length} leaves "
                f"room for {context_length - 1}: {_shown(content)}; raise rollout.context_length or drop the row"
            )
        else:
            prompts.append(
                Prompt(problem.id, problem.question, tuple(token_ids), problem.answer, problem.source, problem.tag)
            )
    complaints.raise_if_any()
    return prompts


def _encode(tokenizer: Tokenizer, content: str) -> list[int]:
    if not tokenizer.chat_template:
        return tokenizer.encode(content, add_special_tokens=True)
    messages = [{"role": "user", "content": content}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)  # the template has put them in


def comparable(question: str) -> str:
    """Equal for questions that ask the same in the same words."""
    return _written(question).casefold()


def _written(text: str) -> str:
    """Text without what tokenizers may change for good reasons: white space and the composition of characters."""
    return "".join(unicodedata.normalize("NFKC", text).split())


# -- files ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """A row that is no row."""

    why: str


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | _Unreadable]]:
    """(row number from 1, row) of a file. Raises `DataError` when there is no such file or it has another format."""
    readers = {".jsonl": _jsonl, ".parquet": _parquet}
    if path.is_dir():
        raise DataError([f"{path}: is a directory; name a file in it, .jsonl or .parquet"])
    if not path.exists():
        raise DataError([f"{path}: there is no such file; relative paths start at {Path.cwd()}"])
    if path.suffix not in readers:
        raise DataError(
            [f"{path}: data files end in .jsonl or .parquet, got {path.suffix!r}; convert it, uncompressed"]
        )
    if not os.access(path, os.R_OK):
        raise DataError([f"{path}: may not be read by this user; change its permissions"])
    if path.stat().st_size == 0:
        raise DataError([f"{path}: is empty; a data file has one problem per row"])
    return readers[path.suffix](path)


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any] | _Unreadable]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if text:
                    row = json.loads(text)
                    yield number, row if isinstance(row, dict) else _Unreadable(_no_object(row))
            except UnicodeDecodeError as error:
                bad = line[error.start : error.start + 1]
                yield (
                    number,
                    _Unreadable(f"byte {error.start + 1} of the line ({bad!r}) is not UTF-8; save it as UTF-8"),
                )
            except json.JSONDecodeError as error:
                why = f"not JSON, {error.msg} at character {error.pos + 1} of {_shown(text)}; one JSON object per line"
                yield number, _Unreadable(why)
            except RecursionError:
                yield number, _Unreadable(f"nested too deeply to be a row: {_shown(text)}; drop the row")


def _no_object(row: object) -> str:
    return f"a row is a JSON object with named values, got {_shown(json.dumps(row))}"


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any] | _Unreadable]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError([f"{path}: not a Parquet file: {_shown(str(error))}; write it again"]) from None
    start = 1
    for batch in table.to_batches(max_chunksize=1_024):
        yield from enumerate(batch.to_pylist(), start)
        start += batch.num_rows


def _text(row: dict[str, Any], key: str, setting: str, where: str, complaints: _Complaints) -> str | None:
    """The row's value as text, or None after a complaint."""
    value = row.get(key)
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    if key not in row:
        complaints.add(f"{where}: no {key!r}, the row has {', '.join(map(repr, row)) or 'nothing'}; set {setting}")
    else:
        complaints.add(f"{where}: {key!r} must be text or a number, got {_shown(value)}; mend or drop the row")
    return None


def _shown(value: object) -> str:
    """A value short enough for a message."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
