"""Finding the final answer in a text, and reading it as a number. Judges nothing; knows no sympy."""

import re
from fractions import Fraction
from typing import NamedTuple

_BRACE = re.compile(r"\\boxed\s*\{|\\[{}]|[{}]")
_ANSWER_IS = re.compile(r"\banswer\s+is\b[:\s]*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_NUMBER_IN_TEXT = re.compile(r"(?<![\w.])-?\$?\s?\d[\d,]*(?:\.\d+)?(?:\s?/\s?\d+)?%?")

_LATEX_NOISE = re.compile(
    r"\\(?:left|right|displaystyle|,|!|;|:|\s)"  # spacing and sizes
    r"|\\(?=[%$])"  # escaped signs
    r"|\{(?=,\})|(?<=,)\}"  # 1{,}234
)
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("*", "*"), ("`", "`"), ('"', '"'))
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{(-?\d+)\}|(\d))\s*(?:\{(-?\d+)\}|(\d))")
_ASSIGNMENT = re.compile(r"[A-Za-z]\w*\s*=\s*(?=[-+$\d\\.])")
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s*(?:[$€£¥]\s*)?(?P<sign2>[-+]?)"
    r"(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
    r"(?:[eE](?P<exponent>[-+]?\d{1,2}))?"
    r"(?:\s*/\s*(?P<denominator>\d+))?"
    r"\s*(?P<percent>%|percent\b)?"
    r"(?P<unit>(?:(?:\s*[€£¥°]|\s+[A-Za-z][A-Za-z.']*|-[A-Za-z]{3,}|(?<=\d)[a-z]{2,3}\b)+(?:\^\{?\d\}?)?)?)"
)
_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SHORT_UNITS = frozenset(
    ["am", "cl", "cm", "dl", "ft", "gb", "hr", "in", "kb", "kg", "km", "lb", "mb", "mg", "ml", "mm", "oz", "pm"]
)
# After a number these words are mathematics, not units, and so is any other word of one or two letters: `5 x`.
_NOT_UNITS = frozenset(
    ["sqrt", "sin", "cos", "tan", "log", "exp", "mod", "and", "not", "squared", "cubed", "factorial", "choose"]
)
_MAX_DIGITS = 100


class Number(NamedTuple):
    """A number as written."""

    value: Fraction
    percent: bool
    """Whether a percent sign stood behind it; `value` is then the number in front of the sign."""

    def equals(self, other: "Number") -> bool:
        """Equal as numbers. When only one has a percent sign, 20% is both 20 and 0.2."""
        if self.value == other.value:
            return True
        if self.percent == other.percent:
            return False
        percent, plain = (self, other) if self.percent else (other, self)
        return percent.value / 100 == plain.value


def marked_answer(text: str) -> str | None:
    r"""The answer that the text marks as final, or None.

    The first of these that is there: the last balanced `\boxed{…}`, what follows the last `####` on its line,
    what follows the last "answer is" up to the end of its sentence.
    """
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    if "####" in text:
        return text.rsplit("####", 1)[1].strip().partition("\n")[0].strip()
    *before, said = _ANSWER_IS.split(text)
    if before:
        return _SENTENCE_END.split(said.partition("\n")[0], maxsplit=1)[0].strip()
    return None


def last_number(text: str) -> str | None:
    """The last number in a text as it is written there, or None."""
    found = _NUMBER_IN_TEXT.findall(text)
    return found[-1].strip() if found else None


def reference_answer(reference: str) -> str:
    """The answer in a reference: marked as in GSM8K's `… #### 72`, in a box, or the whole reference."""
    if "####" in reference:
        return reference.rsplit("####", 1)[1].strip()
    boxed = _last_boxed(reference)
    return (reference if boxed is None else boxed).strip()


def plain(answer: str) -> str:
    """The answer without wrappers (`$…$`, `**…**`), LaTeX spacing, `\\text{}`, trailing period, doubled spaces."""
    answer = _TEXT_COMMAND.sub(r" \1", _LATEX_NOISE.sub("", answer)).strip()
    for _ in range(4):  # wrappers nest a little: **$5$**
        answer = answer.removesuffix(".").strip()
        for start, end in _WRAPPERS:
            if len(answer) > len(start) + len(end) and answer.startswith(start) and answer.endswith(end):
                answer = answer[len(start) : -len(end)].strip()
                break
    return " ".join(answer.split())


def number(answer: str) -> Number | None:
    r"""The answer as a number, or None when it is anything else.

    Currency signs, thousands commas and units are dropped: `$1,234.50 dollars` is 1234.5. Fractions are exact.
    `5 x`, `5 pi` and `3, 4` are not numbers.
    """
    text = _FRACTION.sub(lambda m: f"{m[1] or m[2]}/{m[3] or m[4]}", plain(answer))
    match = _NUMBER.fullmatch(_ASSIGNMENT.sub("", text, count=1) if _ASSIGNMENT.match(text) else text)
    if match is None or len(match["number"]) > _MAX_DIGITS or len(match["denominator"] or "") > _MAX_DIGITS:
        return None
    words = re.findall(r"[A-Za-z]+", match["unit"].lower())
    unknown = bool(words) and len(words[0]) <= 2 and words[0] not in _SHORT_UNITS
    if unknown or not _NOT_UNITS.isdisjoint(words):
        return None
    denominator = int(match["denominator"] or 1)
    if denominator == 0 or (match["sign"] and match["sign2"]):
        return None
    value = Fraction(match["number"].replace(",", "")) * Fraction(10) ** int(match["exponent"] or 0) / denominator
    if "-" in (match["sign"], match["sign2"]):
        value = -value
    return Number(value * (_SCALES.get(words[0], 1) if words else 1), match["percent"] is not None)


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
