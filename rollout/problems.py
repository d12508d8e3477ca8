"""Reads problems from data sets: the rows of a source, checked but not encoded. Takes no tokenizer.

Rows are read one after the other and only as far as they are needed; what is kept of them is in memory. A bad row is
named with file, row, column, value and remedy.
"""

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rollout.columns import Columns, describe, find_columns, has, needs_reference, value_of
from rollout.config import SetConfig
from rollout.data_errors import Complaints, DataError, shown
from rollout.dataset_files import data_files
from rollout.row_files import Row, Unreadable, read_rows

_LOOKED_AT = 16  # rows among which columns are found
_ROLES = ("system", "user", "assistant", "developer", "tool")
_MAY_BE_SILENT = ("system", "developer", "tool")  # an empty system message keeps a template's own out
_NOT_TEXT = ("image", "images", "video", "videos", "audio", "audios")  # as verl, TRL and OpenRLHF call them


@dataclass(frozen=True, slots=True)
class RawProblem:
    """One row of data, checked but not encoded."""

    id: str
    question: str
    answer: str
    """The reference."""
    source: str
    """Where it came from, e.g. `train.jsonl:17` or `gsm8k/train-00000-of-00001.parquet:17`."""
    tag: str = ""
    """The held-out set that evaluation reports it in."""
    messages: tuple[tuple[str, str], ...] = ()
    """(role, content) of the chat that asks the question, where it is more than one text of the user's."""
    verifier: str = ""
    """Which verifier judges answers to it; empty: the run's."""
    extras: str = ""
    """Its further columns as a JSON object; empty when there are none."""
    response: str = ""
    """A response that must score as correct, where the row has one."""


@dataclass(frozen=True, slots=True)
class LoadedSet:
    """What one set of problems holds."""

    problems: list[RawProblem]
    note: str
    """Where from and by which columns."""


def load_problems(
    asked: SetConfig,
    complaints: Complaints,
    limit: int | None = None,
    verifier: str = "",
    known: Collection[str] | None = None,
) -> LoadedSet:
    """The problems of a data set, in its order; at most the first `limit`. Rows after these are not looked at.

    Bad rows go to `complaints`. Where a row has no id its number is one, after the file's name if there are several.

    Args:
        asked: The set.
        complaints: Takes the bad rows.
        limit: Rows at most.
        verifier: The run's, for rows of sets that name none.
        known: Verifiers that rows may name, by the run's names for them; None: any.

    Raises:
        DataError: When the files cannot be used, or no row can.
    """
    files = data_files(asked.path, asked.split, asked.subset)
    row, columns = _look(files, asked, verifier)
    several = len(files) > 1
    wanted = columns.needed(asked.extra_keys)
    reader = _RowReader(asked, columns, verifier, known)
    loaded: list[RawProblem] = []
    first_with: dict[str, str] = {}
    for file in files:
        name = f"{file.name}:" if several else ""
        rows = read_rows(file, wanted)
        while len(loaded) != limit and (found := next(rows, None)) is not None:
            number, content = found
            problem = reader.read(content, file, number, f"{name}{number}", complaints)
            if problem is None:
                continue
            if problem.id in first_with:
                complaints.add(
                    f"{file}:{number}: {columns.id} {shown(problem.id)} is also that of row {first_with[problem.id]}; "
                    "give every row its own, or set data.id_key to a column that is not there to number the rows"
                )
                continue
            first_with[problem.id] = f"{name}{number}"
            loaded.append(problem)
    if not loaded:
        complaints.settle()
        raise DataError([f"{asked.path}: holds no rows that can be used; a data set has one problem per row"])
    judge = f"; verifier {asked.verifier}" if asked.verifier else ""
    pieces = f" ({len(files)} files)" if several else ""
    what = describe(columns, row, asked.extra_keys)
    return LoadedSet(loaded, f"{asked.path.name}{pieces}: {len(loaded):,} × {what}{judge}")


def _look(files: Sequence[Path], asked: SetConfig, verifier: str) -> tuple[Mapping[str, Any], Columns]:
    """The columns, and the row by which they were found: one of the first few, with a reference if there is such."""
    refused: DataError | None = None
    without: tuple[Mapping[str, Any], Columns] | None = None
    unreadable: list[str] = []
    for file, number, row in islice(_all_rows(files), _LOOKED_AT):
        if isinstance(row, Unreadable):
            unreadable.append(f"{file}:{number}: {row.why}")
            continue
        try:
            columns = find_columns(row, asked, verifier, f"{file}:{number}")
        except DataError as error:
            refused = refused or error
            continue
        if columns.answer or asked.answer_key is not None:
            return row, columns
        without = without or (row, columns)
    if without:
        return without
    if refused:
        raise refused
    raise DataError(unreadable[:5] or [f"{asked.path}: holds no rows; a data set has one problem per row"])


def _all_rows(files: Sequence[Path]) -> Iterator[tuple[Path, int, Row]]:
    return ((file, number, row) for file in files for number, row in read_rows(file))


class _RowReader:
    """Makes problems of the rows of one set."""

    def __init__(self, asked: SetConfig, columns: Columns, verifier: str, known: Collection[str] | None) -> None:
        self._asked = asked
        self._columns = columns
        self._verifier = asked.verifier or verifier
        self._known = known

    def read(self, row: Row, file: Path, number: int, default_id: str, complaints: Complaints) -> RawProblem | None:
        """A row as a problem, or None after a complaint that names all of its parts that are bad."""
        where = f"{file}:{number}"
        if isinstance(row, Unreadable):
            complaints.add(f"{where}: {row.why}")
            return None
        asked, columns = self._asked, self._columns
        faults: list[str] = []

        def part(name: str | None, setting: str, read: Callable[[Any], Any], default: Any = None) -> Any:
            """What a column holds; a column that may be empty has a default."""
            if not name:
                return default
            try:
                value = value_of(row, name)
                return default if value is None and default is not None else read(value)
            except KeyError:
                if default is None:
                    have = ", ".join(map(repr, row)) or "nothing"
                    faults.append(f"no {name!r}, the row has {have}; set data.{setting}")
            except ValueError as error:
                faults.append(f"{name!r} {error}; mend or drop the row")
            return default

        question = part(columns.question, "question_key", _question)
        verifier = part(columns.verifier, "verifier_key", self._named_verifier, asked.verifier or "")
        if asked.answer_key == "" or not needs_reference(verifier or self._verifier):
            answer = part(columns.answer, "answer_key", _reference_if_any, "")
        elif columns.answer:
            answer = part(columns.answer, "answer_key", _reference)
        else:
            faults.append(f"no reference, and {verifier or self._verifier!r} needs one; set data.answer_key")
        row_id = part(columns.id, "id_key", _text, default_id)
        tag = part(columns.tag, "tag_key", _text, "")
        response = part(columns.response, "response_key", _text, "")
        faults += self._not_text(row)
        if faults:
            complaints.add(f"{where}: {'; '.join(faults)}")
            return None
        content, messages = question
        extras = _extras(row, columns, asked.extra_keys, bool(messages))
        place = file.name if file == asked.path else f"{asked.path.name}/{file.name}"
        return RawProblem(row_id, content, answer, f"{place}:{number}", tag, messages, verifier, extras, response)

    def _named_verifier(self, value: Any) -> str:
        if _is_empty(value):
            return self._asked.verifier or ""
        name = _text(value)
        if self._known is None or name in self._known or name == self._verifier:
            return name
        have = ", ".join(sorted(filter(None, {self._verifier, *self._known})))
        raise ValueError(
            f"names the verifier {name!r}, the run has {have}; give it verifier.others={{{name}: {{}}}}, or have the "
            "column left unread with data.verifier_key=''"
        )

    def _not_text(self, row: Mapping[str, Any]) -> Iterator[str]:
        """Pictures and sounds that belong to the problem: without them it is another one."""
        names = [name for name in _NOT_TEXT if has(row, name) and not _is_empty(row[name])]
        if names and self._asked.extra_keys is None:
            yield (
                f"{', '.join(map(repr, names))} would be lost: models are asked in text alone; drop the row, or, where "
                "its text is enough, name the further columns to keep in data.extra_keys ([] for none)"
            )


def _question(value: Any) -> tuple[str, tuple[tuple[str, str], ...]]:
    """(text, messages): messages only where there is more to it than one text of the user's."""
    if not isinstance(value, list):
        return _text(value), ()
    messages = []
    for message in value:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
        content = _content(content, role)
        if role not in _ROLES or not (content.strip() or role in _MAY_BE_SILENT):
            raise ValueError(
                f"as chat messages needs a role ({', '.join(_ROLES)}) and text in each, got {shown(message)}"
            )
        messages.append((role, content))
    if not messages or messages[-1][0] != "user":
        last = f"ends with {messages[-1][0]!r}" if messages else "is empty"
        raise ValueError(f"as chat messages must end with the user's, which the model answers, but it {last}")
    return "\n\n".join(content for _, content in messages if content.strip()), tuple(messages)


def _content(content: Any, role: Any) -> str:
    """The text of a message; parts of text follow each other without a gap, as in chat templates."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise ValueError(
                f"as chat messages may have parts of type 'text' alone, a message of {role!r} has {shown(part)}: "
                "models are asked in text alone"
            )
    return "".join(part["text"] for part in parts)


def _text(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    raise ValueError(f"must be text or a number, got {shown(value)}")


def _reference(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    if isinstance(value, str) and value.strip():
        return value
    if _is_empty(value) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"must not be empty, got {shown(value)}")
    return _json(value)


def _reference_if_any(value: Any) -> str:
    return "" if _is_empty(value) else _reference(value)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {})


def _extras(row: Mapping[str, Any], columns: Columns, keys: tuple[str, ...] | None, chat: bool) -> str:
    """Further columns under their own names; messages as `prompt`, where TRL's reward functions look for them."""
    if keys is None:
        kept = {name: value for name, value in row.items() if name != columns.question}
    else:
        kept = {name: value_of(row, name) for name in keys if _is_there(row, name)}
    if chat:
        kept["prompt"] = value_of(row, columns.question)
    return _json(kept) if kept else ""


def _is_there(row: Mapping[str, Any], name: str) -> bool:
    try:
        value_of(row, name)
    except KeyError:
        return False
    return True


def _json(value: Any) -> str:
    """JSON text; bytes (pictures, sounds) are no JSON and become null, times and decimals their usual text."""
    return json.dumps(value, ensure_ascii=False, default=lambda x: None if isinstance(x, bytes) else str(x))
