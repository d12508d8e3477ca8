"""The `math` verifier: numbers exactly, anything else by math-verify. Refuses to hand sympy what could hang it.

math-verify's own time-outs are off: they use signals, which fail off the main thread and then call every correct
answer wrong. The process that runs this is killed instead (`verifiers.pool`).
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from verifiers.answers import MARKS, last_number, marked_answer, reference_answer
from verifiers.exact import normalise
from verifiers.intervals import alike
from verifiers.records import ScoreRequest, Verdict, VerdictStatus
from verifiers.sentence import only_answer
from verifiers.spelling import one_fraction, plain
from verifiers.too_hard import too_hard
from verifiers.written_number import number, quantity

EXTRACTIONS = (*MARKS, "last_number")
"""Where a final answer may stand: between `<answer>` and `</answer>`, in `\\boxed{…}` (the last balanced one), behind
`####`, behind "answer is", or the last number or its formula in an answer that marks nothing."""

_DECIMAL = re.compile(r"(?<![\w.])(\d{0,15})\.(\d{1,15})(?![\w.])")
_SIGNS_ONLY = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|°|\\?\$")
_BASE = re.compile(r"\d_\{?(\d+)")
_LAYOUT = re.compile(r"\\(?:begin|end)\s*\{\w+\*?\}")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{4,}")  # x, ab, sin, log, are mathematics; `seven`, `cannot` are not
_FUNCTIONS = frozenset(["sqrt", "frac", "sinh", "cosh", "tanh", "asin", "acos", "atan", "arcsin", "arccos", "arctan"])
_WORD = re.compile(r"[A-Za-z]{2,}")
_PRODUCT = re.compile(r"[b-df-hj-np-tv-z]+")  # xy and mn are products; act, ABC and no are words or names
_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
_NAMED = re.compile(r"\A\s*\\?[A-Za-z]\w*(?:\([A-Za-z]\))?\s*=")
_EQUALS = re.compile(r"(?<![<>!:])=")
_RELATION = re.compile(r"[<>≤≥≠]|\\(?:[lg](?:eq?|t|eqslant)|neq?)(?![A-Za-z])")
_SET = re.compile(r"[(\[]|\\(?:in|cup|infty|emptyset|mathbb)(?![A-Za-z])|[∈∪∞]")
_TYPICAL = (
    ("x^2+2x+1", "(x+1)^2"),
    (r"\sqrt{12}", r"3\sqrt{2}"),
    (r"\frac{\pi}{2}", r"\frac{5}{10}\pi"),
    ("[1,2]", "[1,3)"),
    (r"\{1,2,3\}", r"\{3,2,1\}"),
    ("(1,-2)", "(-2,1)"),
    (r"\log(8)", r"3\log(2)"),
    ("e^{2x}", r"e\cdot e"),
    (r"\sin x", r"\cos{x}"),
    ("x=3", "3"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1\\4\end{pmatrix}"),
    (r"(-\infty,2)\cup[5,\infty)", r"\mathbb{R}"),
    ("3a-4b", "4b-3a"),
    (r"\frac{2}{5}y", r"\frac{4}{10}y"),
    (r"2\cdot 3^5", "3^5+3^5"),
    (r"\frac{4}{\sqrt{3}}", r"\frac{4\sqrt{3}}{3}"),
    (r"\frac{a+1}{b}", r"\frac{a}{b}+1"),
    (r"\sqrt[3]{x}", r"x^{1/3}"),
    (r"\binom{5}{2}", "5!"),
    ("2+3i", "3i+2"),
    (r"\left(\frac{1}{2},\sqrt{2}\right)", r"\left(0,1\right)"),
    (r"\ln 2", r"\log 3"),
)
"""Answers as they are written, to warm up with."""


class MathAnswer:
    """Final answer against the reference, as mathematics.

    Numbers are compared as exact fractions (0.33 is not 1/3), with their units where both sides have known ones. A
    decimal is exact too: 1.414214 is not √2. Intervals equal the inequalities that describe them. Order matters in
    tuples, not in sets. An answer cut off at the length limit counts only when its final answer was marked. What no
    computer algebra should see (towers of exponents, hundreds of characters) gets status `timeout` at once; a
    reference like that is compared as text.
    """

    name = "math"
    version = "4"
    timeout_s = 3.5
    """The slowest honest comparison takes 1.6 s; towers that slip through would take for ever."""

    def __init__(self, extract: Sequence[str] = EXTRACTIONS) -> None:
        """`extract`: where final answers may stand, the first that is there counts; see `EXTRACTIONS`."""
        if unknown := set(extract) - set(EXTRACTIONS):
            raise ValueError(
                f"verifier math: extract has unknown ways {sorted(unknown)}; it takes some of {', '.join(EXTRACTIONS)}"
            )
        self._marked = tuple(way for way in extract if way != "last_number")
        self._unmarked = "last_number" in extract

    def prepare(self) -> None:
        """Import math-verify and sympy (seconds), and fill the caches of their parsers, which begin slowly."""
        for one, other in _TYPICAL:
            _equal_as_mathematics(one, other)

    def gold(self, reference: str) -> str:
        """The answer in the reference, marked as final in a way that is looked for."""
        answer = reference_answer(reference)
        ways = {
            "hashes": f"#### {answer}",
            "boxed": rf"\boxed{{{answer}}}",
            "answer_is": f"The answer is {answer}",
            "answer_tag": f"<answer>{answer}</answer>",
        }
        return next((said for way, said in ways.items() if way in self._marked), answer)

    def score(self, request: ScoreRequest) -> Verdict:
        """Reward 1 for an equal final answer, else 0; part `marked` tells whether the answer was marked as final."""
        gold = reference_answer(request.reference)
        if not gold:
            raise ValueError("the reference is empty; every problem needs an answer to be held against")
        marked = marked_answer(request.response, self._marked)
        answer = marked
        if marked is None and not request.truncated and self._unmarked:
            answer = last_number(request.response)
        if answer and not _is_text(gold) and not number(answer) and normalise(answer) != normalise(gold):
            answer = only_answer(answer) or answer
        status, rule = _judge(gold, answer) if answer else ("wrong", "no final answer found")
        read = _reading(answer) if answer else ""
        verdict = partial(
            Verdict, verifier=self.name, version=self.version, answer=read, expected=gold[:200], rule=rule
        )
        if status == "timeout":
            return verdict(None, status, feedback=f"not compared: {rule}")
        correct = float(status == "correct")
        feedback = "" if correct else f"answered {answer[:80]!r}, expected {gold[:80]!r}" if answer else rule
        return verdict(
            correct, status, parts={"answer": correct, "marked": float(marked is not None)}, feedback=feedback
        )


def _reading(answer: str) -> str:
    """One spelling for answers that are the same number or the same text: `$1,400` and `1400.0` both read 1400."""
    found = number(answer)
    return f"{found.value}{'%' * found.percent}" if found else normalise(answer)


def _judge(gold: str, answer: str) -> tuple[VerdictStatus, str]:
    """Whether the answer equals the gold one, and by which rule."""
    gold_number, answer_number = number(gold), number(answer)
    if gold_number and answer_number:
        return _said(answer_number.equals(gold_number)), "number"
    if normalise(answer) == normalise(gold):
        return "correct", "text"
    (gold, gold_unit), (answer, answer_unit) = quantity(gold), quantity(answer)
    if gold_unit and answer_unit:
        if (factor := gold_unit.in_unit_of(answer_unit)) is None:
            return "wrong", "unit"
        gold = gold if factor == 1 else rf"({gold})\cdot\frac{{{factor.numerator}}}{{{factor.denominator}}}"
    sides = _EQUALS.split(_NAMED.sub("", answer, count=1))
    arithmetic = len(sides) > 1 and not _LETTER.search("".join(sides)) and "," not in answer
    if arithmetic and not _EQUALS.search(gold) and not too_hard(answer):
        verdicts = [_judge(gold, side.strip()) for side in sides]  # 9 + 9 = 18 says 18, 17 = 18 says nothing
        return next((verdict for verdict in verdicts if verdict[0] != "correct"), verdicts[-1])
    if _prose(answer) or _prose(gold) or (_word(answer) and _word(gold)):
        return "wrong", "text"
    gold, answer = alike(gold, answer)
    if bool(_RELATION.search(gold)) != bool(_RELATION.search(answer)) and not _SET.search(gold + answer):
        return "wrong", "relation"
    if too_hard(gold):
        return _said(_signs(gold) == _signs(answer)), "text"
    if reason := too_hard(answer):
        return "timeout", reason
    bases = _BASE.findall(gold), _BASE.findall(answer)
    if bases[0] and bases[1] and bases[0] != bases[1]:  # math-verify drops subscript bases
        return "wrong", "base"
    return _said(_equal_as_mathematics(_exact(gold), _exact(answer))), "math-verify"


def _said(equal: bool) -> VerdictStatus:
    return "correct" if equal else "wrong"


def _prose(answer: str) -> bool:
    """Whether the answer has words in it, which a computer algebra system would read as products of letters."""
    return any(word.lower() not in _FUNCTIONS for word in _PROSE.findall(plain(_LAYOUT.sub("", answer))))


def _is_text(gold: str) -> bool:
    """Whether a reference is words, and no amount of anything."""
    return number(gold) is None and _prose(quantity(gold)[0])


def _word(answer: str) -> bool:
    """Whether the answer is one short word, and not a product of letters."""
    return _WORD.fullmatch(plain(answer)) is not None and not _PRODUCT.fullmatch(plain(answer))


def _signs(answer: str) -> str:
    """What of an answer is not layout."""
    return re.sub(r"[\s{}]", "", plain(answer))


def _exact(answer: str) -> str:
    r"""Decimals and mixed numbers as fractions.

    math-verify rounds decimals and then takes 1.414214 for \sqrt{2}.
    """
    return _DECIMAL.sub(
        lambda m: rf"\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}}",
        one_fraction(_SIGNS_ONLY.sub("", answer)),
    )


def _equal_as_mathematics(gold: str, answer: str) -> bool:
    """math-verify's opinion, asked in both directions where it is lopsided: relations, sets, tuples."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
    from sympy import Expr

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns at every call that its time-outs are off
    # Its own reading of units is off: it takes the m of 5m for metres and drops it.
    spelling = replace(LatexExtractionConfig().normalization_config, units=False)
    where = (LatexExtractionConfig(normalization_config=spelling), ExprExtractionConfig())
    read: Callable[[str], list[object]] = lambda text: parse(  # noqa: E731
        rf"\boxed{{{text}}}", extraction_config=where, parsing_timeout=None
    )
    golds, answers = read(gold), read(answer)
    if verify(golds, answers, timeout_seconds=None):
        return True
    if all(isinstance(side, (Expr, str)) for side in (*golds, *answers)):
        return False
    return bool(verify(answers, golds, timeout_seconds=None))
