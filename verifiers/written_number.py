"""Reading an answer as a number, exactly, with its unit. What is not clearly one number is none."""

import re
from dataclasses import dataclass, field
from fractions import Fraction

from verifiers.spelling import TEXT_COMMAND, one_fraction, plain
from verifiers.units import SCALES, Unit, read_unit, singular

NUMERAL = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
"""Digits, perhaps with thousands set apart by commas or spaces, perhaps with decimals."""
TIMES_TEN = r"\s{0,3}(?:\\times|\\cdot|×|·|\*|x)\s{0,3}10\s?(?:\^|\*\*)\s?\{?\s?([-+]?\d+)(?:\s?\})?"
"""What follows 1.5 in `1.5 \\times 10^{-3}`."""

CHANGING = (
    r"not|never|no|isn't|nor|or|half|halves|thirds?|fourths|fifths|squared|cubed|factorial|plus|minus|divided|multiplied"
    r"|choose|mod|modulo|gcd|lcm|sqrt|root|pi|sin|cos|tan|sec|csc|cot|log|ln|lg|exp|det|max|min|abs|arcsin|arccos|arctan"
)
"""Words behind a number that make another number of it, or deny it; a pattern."""

_CHANGING = re.compile(rf"(?<![\w'])(?:{CHANGING})(?![\w'])", re.IGNORECASE)
_TIMES_TEN = re.compile(rf"(?<=[\d.]){TIMES_TEN}")
_TEN_TO = re.compile(r"([-+]?)\s?10\s?(?:\^|\*\*)\s?\{?\s?([-+]?\d+)\s?\}?")
_FRACTION = re.compile(r"(?<![\w.)}])\\[dt]?frac\s*(?:\{(-?\d+)\}|(\d))\s*(?:\{(-?\d+)\}|(\d))")
_ASSIGNMENT = re.compile(
    r"(?:\\?[A-Za-z]\w*(?:\([A-Za-z]\))?\s*=|=|(?:\\?[A-Za-z]\w*\s*)?(?:\\approx|≈))\s*(?=[-+$\d\\.])"
)
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s*(?:(?P<currency>[$€£¥])\s*)?(?P<sign2>[-+]?)"
    rf"(?P<number>{NUMERAL})\.?(?:[eE](?P<exponent>[-+]?\d{{1,2}}))?"
    r"(?:\s*/\s*(?P<denominator>\d+)(?![\d.]))?(?P<percent>\s*(?:%|percent\b))?(?P<rest>\D.*)?"
)
_WORD = re.compile(r"[A-Za-z][A-Za-z'’]*")
_SCALE = re.compile(r"[\s-]*([A-Za-z]+)")
_BARE_LETTER = re.compile(r"\s*-?[A-Za-z](?:\^\{?\d\}?)?$")
_ORDINAL = re.compile(r"(?:st|nd|rd|th)(?![A-Za-z])")
_NOUN = re.compile(r"(?:\s+|-)[A-Za-z][A-Za-z'’.,\s-]*")
_SHORT_NOUNS = frozenset(["per", "a", "an", "of", "men", "in"])
_CURRENCY = {"$": read_unit("dollar"), "€": read_unit("euro")}
_TRAILING_TEXT = re.compile(
    r"(?P<body>.*[^\s\\])[\s\\,;]*\\(?:text|textrm|mathrm|mbox)\s*\{(?P<unit>[^{}]+)\}(?P<power>(?:\^\{?-?\d\}?)?)[\s.]*",
    re.DOTALL,
)
_TRAILING_WORDS = re.compile(r"(?P<body>.*(?:[\d)}]|\\pi))\s+(?P<unit>[A-Za-z][A-Za-z.]+[\w./^ {}-]*)")
_UNITS = re.compile(r"(?:square |cubic |sq\.? )?units?")
_MAX_DIGITS = 100
_MAX_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Number:
    """A number as written."""

    value: Fraction
    percent: bool
    """Whether a percent sign stood behind it; `value` is then the number in front of the sign."""
    unit: Unit | None = field(default=None, compare=False)
    """Its unit, if that is one of those in `verifiers.units`."""

    def readings(self, other: "Number") -> list[tuple[Fraction, Fraction]]:
        """Pairs of values, of this and of the other one, any of which may be equal.

        None where both have units and these do not fit. Where only one has a percent sign there are two pairs:
        20% is both 20 and 0.2.
        """
        factor = self.unit.in_unit_of(other.unit) if self.unit and other.unit else Fraction(1)
        if factor is None:
            return []
        pairs = [(self.value * factor, other.value)]
        if self.percent and not other.percent:
            pairs.append((self.value / 100, other.value))
        if other.percent and not self.percent:
            pairs.append((self.value, other.value / 100))
        return pairs

    def equals(self, other: "Number") -> bool:
        """Equal in some reading."""
        return any(mine == others for mine, others in self.readings(other))


def number(answer: str, letters: bool = False) -> Number | None:
    r"""The answer as a number, or None when it is anything else.

    `$1,234.50`, `3\frac{1}{2} cups`, `2.5 million`, `1.5 \times 10^{-3}`, `x = 5`, `12 eggs` are numbers; `5 x`,
    `5 pi`, `5 abc`, `> 5` and `3, 4` are none.

    Args:
        answer: A short text.
        letters: Whether a bare letter may be a unit: `5 m`. Otherwise only `5\text{ m}` is five metres.
    """
    if len(answer) > _MAX_CHARACTERS:
        return None
    text = _ASSIGNMENT.sub("", plain(answer), count=1) if _ASSIGNMENT.match(plain(answer)) else plain(answer)
    text = _FRACTION.sub(lambda m: f"{m[1] or m[2]}/{m[3] or m[4]}", one_fraction(text))
    text = _TIMES_TEN.sub(r"e\1", text)
    if ten := _TEN_TO.match(text):
        text = f"{ten[1]}1e{ten[2]}{text[ten.end() :]}"
    match = _NUMBER.fullmatch(text)
    if match is None or len(match["number"]) > _MAX_DIGITS or len(match["denominator"] or "") > _MAX_DIGITS:
        return None
    scale, rest = _scaled(match["rest"] or "")
    unit = read_unit(rest.lstrip("-"))
    if rest.strip() and not _measures(rest, unit, set(_words(" ".join(TEXT_COMMAND.findall(answer)))), letters):
        return None
    denominator = int(match["denominator"] or 1)
    if denominator == 0 or (match["sign"] and match["sign2"]):
        return None
    value = Fraction(re.sub(r"[^\d.]", "", match["number"])) * Fraction(10) ** int(match["exponent"] or 0) / denominator
    value = -value if "-" in (match["sign"], match["sign2"]) else value
    return Number(value * scale, match["percent"] is not None, _CURRENCY.get(match["currency"] or "", unit))


def quantity(answer: str) -> tuple[str, Unit | None]:
    r"""An expression without the unit or noun behind it, and the unit: `6\pi` of `6\pi\text{ inches}`."""
    if len(answer) > _MAX_CHARACTERS:
        return answer, None
    if match := _TRAILING_TEXT.fullmatch(answer.strip("$ ")):
        unit = read_unit(match["unit"] + match["power"])
        words = _words(match["unit"])
        if unit or (
            _NOUN.fullmatch(f" {match['unit'].strip()}") and len(words[0]) > 2 and not _CHANGING.search(match["unit"])
        ):
            return match["body"], unit
    if (match := _TRAILING_WORDS.fullmatch(plain(answer))) and (
        (unit := read_unit(match["unit"])) or _UNITS.fullmatch(match["unit"])
    ):
        return match["body"], unit
    return answer, None


def _scaled(rest: str) -> tuple[Fraction, str]:
    """The product of the scales at the beginning of what follows a number, and what is left."""
    scale = Fraction(1)
    while (word := _SCALE.match(rest)) and singular(word[1]) in SCALES:
        scale *= SCALES[singular(word[1])]
        rest = rest[word.end() :]
    return scale, rest


def _measures(rest: str, unit: Unit | None, said: set[str], letters: bool) -> bool:
    r"""Whether what follows a number is a unit or a noun, and not a factor.

    Args:
        rest: What follows.
        unit: `rest` as a unit.
        said: The words that stood in a `\text{…}`.
        letters: Whether a bare letter may be a unit.
    """
    words = _words(rest)
    if unit is not None:
        return letters or _BARE_LETTER.match(rest) is None or words[0] in said
    rest = _ORDINAL.sub("", rest, count=1) if _ORDINAL.match(rest) else rest
    words = _words(rest)
    if not words:
        return not rest
    noun = len(words[0]) > 3 or words[0] in said or words[0].lower() in _SHORT_NOUNS or read_unit(words[0]) is not None
    factors = [word for word in words if len(word) == 1 and word not in "aI"]
    return _NOUN.fullmatch(rest) is not None and noun and not factors and not _CHANGING.search(rest)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)
