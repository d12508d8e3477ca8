"""The `choice` verifier: multiple choice, answered by the letter or by the text of an option."""

import re
from collections.abc import Mapping
from typing import Any

from verifiers.answers import marked_answer
from verifiers.exact import normalise
from verifiers.options import text, whole
from verifiers.records import ScoreRequest, Verdict, VerdictStatus
from verifiers.spelling import plain
from verifiers.visible import tagged, visible

_SAID = re.compile(r"\b(?:answer|choice|option)\s*(?:is\s*:?|:)\s*", re.IGNORECASE)
_EMPHASIS = re.compile(r"\*\*|__|`")
_LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence)[\s,]+)?(?:I\s+(?:would\s+)?(?:choose|pick|select)\s+)?(?:(?:the|my)\s+)?"
    r"(?:(?:correct|final|best|right)\s+)?(?:(?:answer|choice|option|letter)[\s:]+)?",
    re.IGNORECASE,
)
_BECAUSE = re.compile(r"[\s,]+(?:because|since|as)\b", re.IGNORECASE)
_IS_RIGHT = re.compile(r"is\s+(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|choice|option|one))?", re.IGNORECASE)
_REJECTED = re.compile(r"(?:and\s+)?(?:not|rather than|instead of)\s+(.*)", re.IGNORECASE | re.DOTALL)


class Choice:
    """The option that a response names, or nothing when it names none or several.

    What is marked as final counts (`\\boxed{B}`, `<answer>B</answer>`, `The answer is (B).`, `Answer: B`), else the
    last line when it is an answer and nothing more. A letter with another option's text names nothing; neither
    does a list of letters.
    """

    name = "choice"
    version = "2"

    def __init__(
        self, options_from: str = "options", labels: str = "ABCDEFGHIJ", index_from: int | None = None, after: str = ""
    ) -> None:
        """Options.

        Args:
            options_from: The row's column with the options: a list of texts, a mapping of letters to texts, or
                `{"label": […], "text": […]}`. Where a row lacks it, only letters are understood.
            labels: Letters of the options in order, for rows that do not name them.
            index_from: Set where references are indices: the index of the first option, 0 for MMLU.
            after: Only what follows the last occurrence of this counts, e.g. `</think>`.
        """
        if not text("labels", labels).isalnum() or len(set(labels.upper())) < len(labels):
            raise ValueError(f"labels is a text of different letters or digits, e.g. ABCD, got {labels!r}")
        self._column = text("options_from", options_from)
        self._labels = labels.upper()
        self._index_from = None if index_from is None else whole("index_from", index_from, 0, 1)
        self._after = text("after", after)

    def gold(self, reference: str) -> str:
        """The option in the reference, marked as final."""
        said = reference.strip()
        if self._index_from is not None and said.isdecimal():
            said = self._labels[int(said) - self._index_from :][:1]
        return f"{self._after}<answer>{said}</answer>"

    def score(self, request: ScoreRequest) -> Verdict:
        """Reward 1 for the right option, else 0."""
        options = self._options(request.extras.get(self._column))
        gold = self._gold(request.reference, options)
        if gold is None:
            raise ValueError(
                f"the reference {request.reference[:80]!r} names none of the options {_shown(options)}; it is a letter "
                f"or an option's text (an index: see index_from); the options are in the row's column {self._column!r}"
            )
        response = visible(request.response, self._after)
        marked = _marked(response)
        lines = [] if request.truncated else response.strip().splitlines()
        said = marked if marked is not None else lines[-1] if lines else ""
        answer = _read(said, options, strict=marked is None)
        if marked is None and any(_read(line, options, strict=True) not in (None, answer) for line in set(lines)):
            answer = None  # a list of letters is no choice
        correct = answer == gold
        feedback = (
            "" if correct else f"chose {answer}, expected {gold}" if answer else f"no one option in {said[:80]!r}"
        )
        status: VerdictStatus = "correct" if correct else "wrong"
        return Verdict(float(correct), status, self.name, self.version, {}, feedback, answer or "", gold, "option")

    def _gold(self, reference: str, options: Mapping[str, str]) -> str | None:
        if self._index_from is None:
            return _read(reference, options, strict=True)
        index = int(reference) - self._index_from if reference.strip().isdecimal() else -1
        return list(options)[index] if 0 <= index < len(options) else None

    def _options(self, column: Any) -> dict[str, str]:
        """Texts of the options by upper-case label; empty texts where they are not known."""
        if column is None:
            return dict.fromkeys(self._labels, "")
        if isinstance(column, Mapping) and {"label", "text"} <= set(column):
            column = dict(zip(column["label"], column["text"], strict=True))
        if isinstance(column, Mapping):
            return {str(label).upper(): str(words) for label, words in column.items()}
        if not isinstance(column, list) or not 1 < len(column) <= len(self._labels):
            raise ValueError(
                f"column {self._column!r} holds 2 to {len(self._labels)} options as a list or a mapping, "
                f"got {column!r:.80}"
            )
        return {label: _unlabelled(str(words), label) for label, words in zip(self._labels, column, strict=False)}


def _unlabelled(words: str, label: str) -> str:
    """The option's text without its own letter: data sets write `(A) Paris` as often as `Paris`."""
    return re.sub(rf"^\s*[(\[]?{label}[)\].:]\s+", "", words)


def _marked(response: str) -> str | None:
    """What the response marks as its answer, or None."""
    response = _EMPHASIS.sub("", response)
    if (inside := tagged(response)) is not None:
        return inside
    *before, said = _SAID.split(response)
    if before and "\\boxed" not in response and "####" not in response:
        return said.partition("\n")[0]
    return marked_answer(response)


def _read(said: str, options: Mapping[str, str], strict: bool) -> str | None:
    """The label of the one option that `said` names.

    Args:
        said: A few words.
        options: Texts by label.
        strict: Nothing but the letter, the option's text, or both; otherwise a reason may follow.
    """
    said = plain(said)
    bare = _LEAD.sub("", said, count=1)
    texts = {label: normalise(words) for label, words in options.items() if words}
    for words in (said, bare):
        by_text = [label for label, text in texts.items() if text == normalise(words)]
        if len(by_text) == 1:
            return by_text[0]
    any_label = "|".join(map(re.escape, options))
    begin = re.match(rf"[(\[]?({any_label})(?![\w'])[)\].:]*", bare, re.IGNORECASE)
    if begin is None:
        return None if strict else _by_text_and_reason(normalise(bare), texts)
    label, rest = begin[1].upper(), bare[begin.end() :].strip().lstrip("-–:,.").strip()
    if not rest or normalise(rest) == texts.get(label) or _IS_RIGHT.fullmatch(rest):
        return label
    if rejected := _REJECTED.fullmatch(rest):
        other = re.match(rf"[(\[]?({any_label})(?![\w'])", rejected[1], re.IGNORECASE)
        known = other[1].upper() != label if other else normalise(rejected[1]) in texts.values()
        return label if known else None
    if strict:
        return None
    if _BECAUSE.match(" " + rest):
        return label
    bracketed = begin[0] != begin[1]
    others = {
        m[1] or m[2]
        for m in re.finditer(rf"[(\[]({any_label})[)\]]|\b({any_label})\b(?=[).:,]|\s+(?:and|or)\b|$)", rest)
    }
    if others - {label} or re.match(r"(?:and|or|is|are|was|isn't|nor)\b|[,/&]", rest, re.IGNORECASE):
        return None
    if texts:  # a letter with the text of an option, its own or another's, and then perhaps a reason
        named = [other for other, words in texts.items() if normalise(rest).startswith(words)]
        longest = max(named, key=lambda other: len(texts[other]), default=None)
        if longest is not None:
            return label if longest == label else None
    return label if bracketed else None


def _by_text_and_reason(said: str, texts: Mapping[str, str]) -> str | None:
    """The label of the option whose text begins `said`, when what follows is set off and names no other option."""
    named = [label for label, words in texts.items() if re.match(rf"{re.escape(words)}(?:\s*[,;(]|\s+because\b)", said)]
    if not named:
        return None
    label = max(named, key=lambda one: len(texts[one]))
    rest = said[len(texts[label]) :].lstrip(" ,;(")
    others = [words for other, words in texts.items() if other != label and words not in texts[label]]
    if _REJECTED.fullmatch(rest) and any(rest.endswith(words) for words in others):
        return label
    mentioned = any(re.search(rf"(?<!\w){re.escape(words)}(?!\w)", rest) for words in others)
    return None if mentioned or rest[:1].isdigit() else label


def _shown(options: Mapping[str, str]) -> str:
    return ", ".join(f"{label} {words!r:.30}" if words else label for label, words in options.items())
