"""The `math` verifier: numbers exactly, anything else by math-verify. Refuses to hand sympy what could hang it.

math-verify's own time-outs are off: they use signals, which fail off the main thread and then call every correct
answer wrong. The process that runs this is killed instead (`verifiers.pool`).
"""

import logging
import re
from collections.abc import Callable

from verifiers.answers import last_number, marked_answer, number, plain, reference_answer
from verifiers.exact import normalise
from verifiers.records import ScoreRequest, Verdict, VerdictStatus

_MAX_CHARACTERS = 300
_MAX_NESTING = 40
_MAX_DIGITS = 100
_TOWER = re.compile(r"(?:\^|\*\*)[\s{(]*[^\s{}()^*+=,]+[\s})]*(?:\^|\*\*)|(?:\^|\*\*)\s*[{(][^})]*(?:\^|\*\*)")
_HUGE_EXPONENT = re.compile(r"(?:\^|\*\*)[\s{(+-]*\d{4,}")
_HUGE_FACTORIAL = re.compile(r"\d{4,}[\s})]*!|![\s})]*!")
_DECIMAL = re.compile(r"(?<![\w.])(\d{0,15})\.(\d{1,15})(?![\w.])")
_BASE = re.compile(r"\d_\{?(\d+)")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}")  # x, ab, sin, log, are mathematics; `seven`, `cannot` are not
_FUNCTIONS = frozenset(["sqrt", "frac", "sinh", "cosh", "tanh", "asin", "acos", "atan", "arcsin", "arccos", "arctan"])


class MathAnswer:
    """Final answer against the reference, as mathematics.

    Numbers are compared as exact fractions without units (0.33 is not 1/3). A decimal is exact too: 1.414214 is
    not √2. Intervals equal the inequalities that describe them. Order matters in tuples, not in sets. An answer
    cut off at the length limit counts only when its final answer was marked.
    """

    name = "math"
    version = "1"

    def prepare(self) -> None:
        """Import math-verify and sympy (seconds)."""
        _equal_as_mathematics("x", "x")

    def score(self, request: ScoreRequest) -> Verdict:
        """Reward 1 for an equal final answer, else 0; part `marked` tells whether the answer was marked as final."""
        gold = reference_answer(request.reference)
        if not gold:
            raise ValueError("the reference is empty; every problem needs an answer to be held against")
        marked = marked_answer(request.response)
        answer = marked
        if marked is None and not request.truncated:
            answer = last_number(request.response)
        correct, feedback = _judge(gold, answer) if answer else (False, "no final answer found")
        parts = {"answer": float(correct), "marked": float(marked is not None)}
        status: VerdictStatus = "correct" if correct else "wrong"
        read = _reading(answer) if answer else ""
        return Verdict(float(correct), status, self.name, self.version, parts, feedback, read)


def _reading(answer: str) -> str:
    """One spelling for answers that are the same number or the same text: `$1,400` and `1400.0` both read 1400."""
    found = number(answer)
    return f"{found.value}{'%' * found.percent}" if found else normalise(answer)


def _judge(gold: str, answer: str) -> tuple[bool, str]:
    """Whether the answer equals the gold one, and why not."""
    wrong = f"answered {answer[:80]!r}, expected {gold[:80]!r}"
    gold_number, answer_number = number(gold), number(answer)
    if gold_number and answer_number:
        return (True, "") if answer_number.equals(gold_number) else (False, wrong)
    if normalise(answer) == normalise(gold):
        return True, ""
    if _prose(answer) or _prose(gold):
        return False, wrong
    if reason := too_hard(gold):
        raise ValueError(f"the reference {gold[:80]!r} cannot be compared as mathematics: {reason}")
    if reason := too_hard(answer):
        return False, f"not compared: {reason}"
    bases = _BASE.findall(gold), _BASE.findall(answer)
    if bases[0] and bases[1] and bases[0] != bases[1]:  # math-verify drops subscript bases
        return False, wrong
    return (True, "") if _equal_as_mathematics(_exact_decimals(gold), _exact_decimals(answer)) else (False, wrong)


def too_hard(answer: str) -> str:
    """Why sympy should not see this answer, or an empty string."""
    if len(answer) > _MAX_CHARACTERS:
        return f"{len(answer)} characters, at most {_MAX_CHARACTERS} are read"
    if sum(c.isdigit() for c in answer) > _MAX_DIGITS:
        return f"more than {_MAX_DIGITS} digits"
    depth = deepest = 0
    for character in answer:
        depth += (character in "({[") - (character in ")}]")
        deepest = max(deepest, depth)
    if deepest > _MAX_NESTING:
        return f"nested {deepest} deep, at most {_MAX_NESTING}"
    if _TOWER.search(answer) or _HUGE_EXPONENT.search(answer):
        return "a tower of exponents or an exponent of more than three digits"
    if _HUGE_FACTORIAL.search(answer):
        return "a factorial of a factorial or of more than three digits"
    return ""


def _prose(answer: str) -> bool:
    """Whether the answer has words in it, which a computer algebra system would read as products of letters."""
    return any(word.lower() not in _FUNCTIONS for word in _PROSE.findall(plain(answer)))


def _exact_decimals(answer: str) -> str:
    r"""Decimals as exact fractions; math-verify rounds decimals and then takes 1.414214 for \sqrt{2}."""
    return _DECIMAL.sub(lambda m: rf"\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}}", answer)


def _equal_as_mathematics(gold: str, answer: str) -> bool:
    """math-verify's opinion, asked in both directions: it is lopsided on intervals against inequalities."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns at every call that its time-outs are off
    read: Callable[[str], list[object]] = lambda text: parse(rf"\boxed{{{text}}}", parsing_timeout=None)  # noqa: E731
    golds, answers = read(gold), read(answer)
    return any(verify(a, b, timeout_seconds=None) for a, b in ((golds, answers), (answers, golds)))
