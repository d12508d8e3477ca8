"""Finding the final answer in a text. Judges nothing; knows no sympy."""

import re
from collections.abc import Callable, Sequence

from verifiers.units import known_words, read_unit
from verifiers.visible import tagged
from verifiers.written_number import NUMERAL, TIMES_TEN

_BRACE = re.compile(r"\\boxed\s*\{|\\[{}]|[{}]")
_CALCULATION = re.compile(r"<<[^<>]*>>")  # GSM8K's notes: 2*3 = <<2*3=6>>6
_ANSWER_IS = re.compile(r"\banswer\s+is\b[:\s]*", re.IGNORECASE)
_ABBREVIATED = "".join(rf"(?<!\b{word})" for word in ("St", "Mt", "Ft", "Mr", "Mrs", "Ms", "Dr", "vs"))
_SENTENCE_END = re.compile(rf"{_ABBREVIATED}[.!?](?=\s+(?![a-z])|\s*$)")  # `the U.S. dollar` goes on
_SIGN = r"(?:(?<==)\s?-\s?|(?<==\s)-\s|(?<![\w.)\]}])-)?"  # `10 - 5` ends in 5, `= - 5` in -5, a bullet is no sign
NUMBER_IN_TEXT = re.compile(
    rf"{_SIGN}\$?(?:(?<![\w.])|(?<=frac)|(?<=sqrt)){NUMERAL}(?:[eE][-+]?\d+)?(?:{TIMES_TEN})?(?:\s?/\s?\d+|\s\d+/\d+)?(?:\s?%)?"
)
"""A number as it stands in a sentence, without its unit."""
_FORMULA = re.compile(
    r"\$\$([^$]+)\$\$|\\\(((?:[^\\]|\\[^)(])+)\\\)|\\\[((?:[^\\]|\\[^\]\[])+)\\\]"
    r"|\$(?=[^\s$])([^$\n]*[^\s$])\$(?![\d$])"  # as pandoc has it: `$5 and $7` is no formula
)
_FORMULA_WORD = re.compile(r"[\\^{√]|\d\*\*|[A-Za-z]\(|(?<![A-Za-z])[A-Za-z][-+*/]")
_SPACE = re.compile(r"\s")
_LAST_SPACE = re.compile(r".*\s", re.DOTALL)
_ORDINAL = re.compile(r"(?:st|nd|rd|th)(?![A-Za-z])")
_DIGIT_BEFORE = re.compile(r"\d\s+[^\s\d]+$")
_EQUALS = re.compile(r"(?<![<>!:])=")
_END = re.compile(r"\\end\{\w+\*?\}|\\\\\s*$")
_WINDOW = 300
"""Characters around a number in which its formula is looked for."""

MARKS = ("answer_tag", "boxed", "hashes", "answer_is")
"""Ways to mark an answer as final."""


def marked_answer(text: str, marks: Sequence[str] = MARKS) -> str | None:
    r"""The answer that the text marks as final, or None.

    The first of `marks` that is there: the last whole `<answer>…</answer>`, the last balanced `\boxed{…}`, what
    follows the last `####` on its line, what follows the last "answer is" up to the end of its sentence. A mark
    inside another counts too: `#### The answer is 6`.
    """
    for at, mark in enumerate(marks):
        if (found := _MARKED[mark](text)) is not None:
            inside = marked_answer(found, marks[at + 1 :])
            return found.strip() if inside is None else inside
    return None


def _hashes(text: str) -> str | None:
    if "####" not in text:
        return None
    return _CALCULATION.sub("", text.rsplit("####", 1)[1].strip().partition("\n")[0])


def _answer_is(text: str) -> str | None:
    *before, said = _ANSWER_IS.split(text)
    return _SENTENCE_END.split(said.partition("\n")[0], maxsplit=1)[0] if before else None


def last_number(text: str) -> str | None:
    r"""The last number in a text, as far as it belongs together, or None.

    With what scales or measures it (`50 million`). A number in a formula is not read by itself: from `$x = \frac12$`
    comes `\frac12`, from `3^4` all of it.
    """
    text = text.replace("−", "-")
    for found in reversed(list(NUMBER_IN_TEXT.finditer(text))):
        start = max(0, found.start() - _WINDOW)
        window = text[start : found.end() + _WINDOW]
        begin, end = found.start() - start, found.end() - start
        inside = next((formula for left, right, formula in formulas(window) if left < end <= right), None)
        if inside is not None:
            return _last_side(inside)
        word = formula_word(window, begin, end)
        if word is None:
            more = known_words(window[end:], units="$" not in found[0])
            return (found[0] + window[end : end + more]).strip()
        if read_unit(word) is None or not _DIGIT_BEFORE.search(window[:begin]):  # the 2 of `5 m^2` is no number
            return _last_side(word)
    return None


def reference_answer(reference: str) -> str:
    """The answer in a reference: marked as in GSM8K's `… #### 72`, in a box, or the whole reference."""
    if "####" in reference:
        return reference.rsplit("####", 1)[1].strip()
    boxed = _last_boxed(reference)
    return (reference if boxed is None else boxed).strip()


def formulas(text: str) -> list[tuple[int, int, str]]:
    r"""Where the formulas `$…$`, `\(…\)`, `\[…\]`, `$$…$$` of a short text begin and end, and what is in them."""
    found = [(m.start(), m.end(), m[1] or m[2] or m[3] or m[4]) for m in _FORMULA.finditer(text)]
    return [(begin, end, inside.strip()) for begin, end, inside in found]


def formula_word(text: str, begin: int, end: int) -> str | None:
    """The word around the number that stands at [begin, end) when it is a formula, e.g. `3^4`, `4x`, `\\frac{1}{2}`."""
    left, right = _LAST_SPACE.search(text[:begin]), _SPACE.search(text, end)
    before = text[left.end() if left else 0 : begin]
    after = text[end : right.start() if right else len(text)]
    attached = after[:1].isalpha() and not known_words(after) and not _ORDINAL.match(after)
    if not attached and not _FORMULA_WORD.search(before + after):
        return None
    return (before + text[begin:end] + after).strip(".,;:!?*`\"'")


def _last_side(formula: str) -> str:
    """What follows the last equals sign."""
    return _END.sub("", _EQUALS.split(formula)[-1]).strip(" &.,") or formula


def _last_boxed(text: str) -> str | None:
    """Content of the last balanced \\boxed{…}. Braces escaped by a backslash are text."""
    open_at: list[tuple[int, bool]] = []  # where the content of each open brace begins, and whether it is a box
    last: tuple[int, int] | None = None
    for brace in _BRACE.finditer(text):
        if brace[0] == "}":
            begin, boxed = open_at.pop() if open_at else (0, False)
            if boxed and (last is None or begin > last[0]):
                last = (begin, brace.start())
        elif brace[0][-1] == "{" and brace[0] != r"\{":
            open_at.append((brace.end(), brace[0] != "{"))
    return None if last is None else text[slice(*last)]


_MARKED: dict[str, Callable[[str], str | None]] = {
    "answer_tag": tagged,
    "boxed": _last_boxed,
    "hashes": _hashes,
    "answer_is": _answer_is,
}
