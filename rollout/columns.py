"""Which columns of a row are what: found by their names, as verl, TRL, OpenRLHF and others write them, or as told.

A column may lie inside another: `reward_model.ground_truth`, `messages.0.content`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rollout.config import SetConfig
from rollout.data_errors import DataError

_CHATS = ("prompt", "context_messages")  # TRL and verl, OpenRLHF: where it is messages, nothing else is the problem
_QUESTIONS = ("question", "problem", "prompt", "query", "input", "instruction", "messages", "context_messages")
_ANSWERS = (
    "reward_model.ground_truth",
    "ground_truth",
    "answer",
    "final_answer",
    "expected_answer",
    "label",
    "target",
    "solution",
    "reference",
)
_JUDGE_WITHOUT = ("format", "ifeval", "length", "reasoning_gym")  # by the response, or by columns of their own
_NONE = object()


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the parts of a problem are."""

    question: str
    """Text, or chat messages."""
    answer: str
    """The reference; empty: the rows have none."""
    id: str
    tag: str | None
    response: str | None
    """A response that must score as correct, where the rows have one."""
    verifier: str
    """Names the verifier of a row, where the row has it; empty: it is not looked for."""
    layout: str
    """Whose rows look like this, for people."""

    def needed(self, extras: tuple[str, ...] | None) -> list[str] | None:
        """The columns that a file must give, outermost names only; None: all."""
        if extras is None:
            return None
        named = (self.question, self.answer, self.id, self.tag, self.response, self.verifier, *extras)
        return [part for name in named if name for part in (name, name.partition(".")[0])]


def find_columns(row: Mapping[str, Any], asked: SetConfig, verifier: str, where: str) -> Columns:
    """The columns of a set, by one row of it, for its verifier or `verifier`. What the recipe says is not searched for.

    Raises:
        DataError: When no column looks like a problem or like its answer; names those that there are.
    """
    question = asked.question_key or _problem(row)
    if question is None:
        raise DataError([_unfound(row, where, "the problem", "question_key", _QUESTIONS)])
    named = "verifier" if asked.verifier_key is None else asked.verifier_key
    answer = asked.answer_key
    if answer is None:
        answer = _first(row, [name for name in _ANSWERS if name != question])
        judge = value_of(row, named) if named and has(row, named) else asked.verifier or verifier
        if answer is None and needs_reference(judge):
            message = _unfound(row, where, "the answer", "answer_key", _ANSWERS)
            raise DataError([f"{message} ('' where the verifier needs none)"])
    for key, name in (("response_key", asked.response_key), ("verifier_key", asked.verifier_key)):
        if name and _value(row, name) is _NONE:
            have = ", ".join(map(repr, row))
            raise DataError([f"{where}: no {name!r}, the row has {have}; set data.{key}, or null"])
    told = asked.question_key is not None and asked.answer_key is not None
    layout = "as the recipe says" if told else _layout(question, answer or "")
    return Columns(question, answer or "", asked.id_key or "id", asked.tag_key, asked.response_key, named, layout)


def needs_reference(verifier: object) -> bool:
    """Whether a verifier judges by a reference. A reward function of TRL's judges by whatever columns it likes."""
    return verifier not in _JUDGE_WITHOUT and not str(verifier).startswith("trl:")


def value_of(row: Mapping[str, Any], name: str) -> Any:
    """The row's value in a column, inside others where the name has dots.

    Raises:
        KeyError: When it has none.
    """
    if (found := _value(row, name)) is _NONE:
        raise KeyError(name)
    return found


def has(row: Mapping[str, Any], name: str) -> bool:
    """Whether the row has such a column with something in it."""
    return _value(row, name) not in (_NONE, None)


def describe(columns: Columns, row: Mapping[str, Any], extras: tuple[str, ...] | None) -> str:
    """One line on what was chosen, by one row."""
    question = columns.question
    kind = "messages" if isinstance(_value(row, question), list) else "text"
    parts = [f"problem from {question!r} ({kind})"]
    parts += [f"reference from {columns.answer!r}" if columns.answer else "no reference"]
    parts += [f"id from {columns.id!r}" if has(row, columns.id) else "rows are numbered"]
    parts += [f"gold response from {columns.response!r}"] if columns.response else []
    parts += [f"set from {columns.tag!r}"] if columns.tag else []
    parts += [f"verifier from {columns.verifier!r}"] if columns.verifier and has(row, columns.verifier) else []
    used = {columns.question, columns.answer, columns.id, columns.response, columns.tag, columns.verifier}
    others = [name for name in (row if extras is None else extras) if name not in used]
    parts += [f"also kept: {', '.join(others)}"] if others else []
    return f"{columns.layout}: {'; '.join(parts)}"


def _problem(row: Mapping[str, Any]) -> str | None:
    """The column of the problem. Rows of verl and TRL keep the bare question beside the prompt that is made of it."""
    for name in _CHATS:
        chat = _value(row, name)
        if (isinstance(chat, list) and chat) or (chat and name == "prompt" and "reward_model" in row):
            return name
    return _first(row, _QUESTIONS)


def _first(row: Mapping[str, Any], names: tuple[str, ...] | list[str]) -> str | None:
    """The first of these that the row has with something in it, else the first that it has at all."""
    there = [name for name in names if _value(row, name) is not _NONE]
    return next((name for name in there if has(row, name)), there[0] if there else None)


def _layout(question: str, answer: str) -> str:
    if question == "prompt":
        return "verl rows" if answer == "reward_model.ground_truth" else "TRL rows"
    openrlhf = question == "context_messages" or (question, answer) == ("input", "label")
    return "OpenRLHF rows" if openrlhf else "rows of problem and answer"


def _unfound(row: Mapping[str, Any], where: str, what: str, key: str, names: tuple[str, ...]) -> str:
    have = ", ".join(map(repr, row)) or "nothing"
    likely = repr(names[0]) if key == "question_key" else "'answer'"
    return (
        f"{where}: no {likely}, and no other column that looks like {what}; the row has {have}; set data.{key} to the "
        f"column that holds {what}"
    )


def _value(row: Mapping[str, Any], name: str) -> Any:
    """A column of that very name comes first."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return _NONE
    return value
