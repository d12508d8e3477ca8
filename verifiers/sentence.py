"""The one answer in a sentence: `approximately 6, which makes sense` says 6, `less than 6` does not."""

import re

from verifiers.answers import NUMBER_IN_TEXT, formula_word, formulas
from verifiers.spelling import TEXT_COMMAND
from verifiers.units import read_unit
from verifiers.written_number import CHANGING, number

_CHANGING_AFTER = re.compile(rf"(?<![\w'])(?:{CHANGING})(?![\w'])", re.IGNORECASE)
_CHANGING_BEFORE = re.compile(
    rf"(?<![\w'])(?:{CHANGING}|more|less|fewer|greater|larger|smaller|higher|lower|than|least|most|under|over|above"
    r"|below|beyond|between|exceeds|except|times|twice|double|triple|negative|square|cube|without)(?![\w'])",
    re.IGNORECASE,
)
_COMMON = (
    r"a|i|is|it|to|so|we|be|at|of|in|by|on|he|me|us|am|an|as|up|my|if|do|the|and|for|are|was|has|had|all|out|now|she|her"
    r"|his|him|you|our|its|who|day|one|two|six|ten|get|got|can|per|men|new|any|may|but|way|how"
)
_FACTOR = re.compile(  # short words that are none: 3 ab and 6 abc are products
    rf"(?<![\w'])(?!(?i:{_COMMON})\b)(?:[A-Za-z]{{1,2}}|[a-z]{{3}})(?![\w'])"
)
_EMPHASIS = re.compile(r"(?<![\w*])(\*\*|__)(?=\S)(.*?\S)\1(?![\w*])")
_ASIDE = re.compile(r",?\s(?:because|since|(?:and )?not|rather than|instead of)\s.*", re.IGNORECASE | re.DOTALL)
_NAMED = re.compile(r"(?:[A-Za-z]\w*\s*)?=\s*$")  # the x of `so x = 5`
_MATHEMATICS = re.compile(r"[\\^_<>≤≥≠≈=|{}/+!\d]|n['’]t\b")
_MAX_CHARACTERS = 300


def only_answer(sentence: str) -> str | None:
    r"""The only number or formula in a sentence, with its unit; None when there are several, or words change it.

    A reason and what it is not may follow: `6 because 2 \cdot 3 = 6`, `6, not 7`.
    """
    if len(sentence) > _MAX_CHARACTERS:
        return None
    sentence = TEXT_COMMAND.sub(r" \1 ", _EMPHASIS.sub(r"\2", sentence.replace("−", "-")))
    sentence = _ASIDE.sub("", sentence)
    found = formulas(sentence)
    if not found:
        found = [(m.start(), m.end(), m[0].strip()) for m in NUMBER_IN_TEXT.finditer(sentence)]
        if any(formula_word(sentence, begin, end) for begin, end, _ in found):
            return None
    if len(found) != 1:
        return None
    begin, end, answer = found[0]
    before, after = _NAMED.sub("", sentence[:begin]), sentence[end:].rstrip(" .,")
    if _changes(before, _CHANGING_BEFORE):
        return None
    if number(answer + after) is not None:
        return answer + after
    if read_unit(after) is not None:
        return rf"{answer}\text{{ {after.strip()}}}"
    return None if _changes(after, _CHANGING_AFTER) else answer


def _changes(words: str, changing: re.Pattern[str]) -> bool:
    """Whether words around a number make another number of it, or none."""
    return any(pattern.search(words) for pattern in (changing, _FACTOR, _MATHEMATICS))
