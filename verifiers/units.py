"""Units of measure behind a number: 3 feet are not 3 inches, but they are 36."""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from math import prod

_Factor = tuple[str, int, Fraction]  # kind, its power, size
_METRE, _GRAM, _SECOND, _MONTH, _CUP, _DOLLAR = "length", "mass", "time", "month", "cup", "dollar"
_TABLE = {  # names -> (kind, its power, size in the kind's own unit); plurals in -s are known as well
    "mm millimeter millimetre": (_METRE, 1, "1/1000"),
    "cm centimeter centimetre": (_METRE, 1, "1/100"),
    "m meter metre": (_METRE, 1, "1"),
    "km kilometer kilometre": (_METRE, 1, "1000"),
    "in inch inches": (_METRE, 1, "0.0254"),
    "ft foot feet": (_METRE, 1, "0.3048"),
    "yd yard": (_METRE, 1, "0.9144"),
    "mi mile": (_METRE, 1, "1609.344"),
    "ml milliliter millilitre": (_METRE, 3, "1/1000000"),
    "cl centiliter centilitre": (_METRE, 3, "1/100000"),
    "dl deciliter decilitre": (_METRE, 3, "1/10000"),
    "l L liter litre": (_METRE, 3, "1/1000"),
    "mg milligram": (_GRAM, 1, "1/1000"),
    "g gram": (_GRAM, 1, "1"),
    "kg kilogram": (_GRAM, 1, "1000"),
    "oz ounce": (_GRAM, 1, "28.349523125"),
    "lb pound": (_GRAM, 1, "453.59237"),
    "ms millisecond": (_SECOND, 1, "1/1000"),
    "s sec second": (_SECOND, 1, "1"),
    "min minute": (_SECOND, 1, "60"),
    "h hr hour": (_SECOND, 1, "3600"),
    "day": (_SECOND, 1, "86400"),
    "week": (_SECOND, 1, "604800"),
    "month": (_MONTH, 1, "1"),
    "yr year": (_MONTH, 1, "12"),
    "cup": (_CUP, 1, "1"),
    "pint": (_CUP, 1, "2"),
    "quart": (_CUP, 1, "4"),
    "gallon": (_CUP, 1, "16"),
    "dollar usd": (_DOLLAR, 1, "1"),
    "cent penny pennies ¢": (_DOLLAR, 1, "1/100"),
} | {
    names: (names, 1, "1")  # kinds of their own
    for names in (
        "euro €",
        "degree deg °",
        "radian rad",
        "celsius",
        "fahrenheit",
        "kelvin K",
        "am",
        "pm",
        "mol mole",
        "N newton",
        "J joule",
        "kj kilojoule",
        "W watt",
        "kw kilowatt",
        "V volt",
        "hz hertz",
        "pa pascal",
        "kb kilobyte",
        "mb megabyte",
        "gb gigabyte",
    )
}
_KNOWN = {
    name: (kind, power, Fraction(size)) for names, (kind, power, size) in _TABLE.items() for name in names.split()
}
_ALIASES = (
    (re.compile(r"(?:°|\bdegrees?)\s*(?:C|celsius)\b", re.IGNORECASE), "celsius"),
    (re.compile(r"(?:°|\bdegrees?)\s*(?:F|fahrenheit)\b", re.IGNORECASE), "fahrenheit"),
    (re.compile(r"\b([ap])\.\s?m\b\.?", re.IGNORECASE), r"\1m"),
    (re.compile(r"\bmph\b"), "mile/hour"),
    (re.compile(r"\bk(?:ph|mh)\b"), "km/hour"),
    (re.compile("²"), "^2"),
    (re.compile("³"), "^3"),
)
_WORD = re.compile(r"\s{0,3}-?([A-Za-z]+)(?![A-Za-z])")
_TOKEN = re.compile(r"\s*(?:([A-Za-z]+|[°¢€])\.?|(?:\^|\*\*)\{?([-+]?\d)\}?|(/)|[*·])")
_POWERS_BEFORE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWERS_AFTER = {"squared": 2, "cubed": 3}

SCALES = {
    "dozen": Fraction(12),
    "hundred": Fraction(10**2),
    "thousand": Fraction(10**3),
    "million": Fraction(10**6),
    "billion": Fraction(10**9),
    "trillion": Fraction(10**12),
    "tenth": Fraction(1, 10),
    "hundredth": Fraction(1, 100),
    "thousandth": Fraction(1, 1000),
    "millionth": Fraction(1, 10**6),
}
"""Words behind a number that multiply it, in the singular."""


def singular(word: str) -> str:
    """The word without the s of a plural, in lower case."""
    word = word.lower()
    return word[:-1] if len(word) > 2 and word.endswith("s") else word


@dataclass(frozen=True, slots=True)
class Unit:
    """What a number counts, e.g. km/h."""

    kind: frozenset[tuple[str, int]]
    """Kinds and their powers above the stroke: `{("length", 1)}`."""
    size: Fraction
    """How large the unit is, in the kinds' own units: 1000."""
    per_kind: frozenset[tuple[str, int]] = frozenset()
    """The same below the stroke: `{("time", 1)}`; empty without one."""
    per_size: Fraction = Fraction(1)
    """3600 for the hour."""

    def in_unit_of(self, other: "Unit") -> Fraction | None:
        """The factor that turns amounts in this unit into amounts in the other; None where there is none.

        Where only one of them says `per`, that is not held against it: 18 dollars a day may be called 18 dollars.
        """
        if self.kind != other.kind:
            return None
        if not self.per_kind or not other.per_kind:
            return self.size / other.size
        if self.per_kind != other.per_kind:
            return None
        return self.size / other.size * other.per_size / self.per_size


def read_unit(text: str) -> Unit | None:
    """The unit that a text is from end to end, `square feet` or `m/s^2`, else None."""
    for pattern, name in _ALIASES:
        text = pattern.sub(name, text)
    sides: tuple[list[_Factor], list[_Factor]] = ([], [])  # above the stroke, below it
    below, power_before, position = False, 1, 0
    text = text.strip()
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            return None
        position = token.end()
        word, raised, stroke = token.groups()
        if stroke or word == "per":
            below = True
        elif raised or word in _POWERS_AFTER:
            if not sides[below]:
                return None
            kind, power, size = sides[below].pop()
            by = int(raised) if raised else _POWERS_AFTER[word]
            sides[below].append((kind, power * by, size**by))
        elif word in _POWERS_BEFORE:
            power_before = _POWERS_BEFORE[word]
        elif word:
            if (found := _known(word)) is None:
                return None
            kind, power, size = found
            sides[below].append((kind, power * power_before, size**power_before))
            power_before = 1
    if not sides[0]:
        return None
    return Unit(*_product(sides[0]), *_product(sides[1]))


def known_words(text: str, units: bool = True) -> int:
    """How many characters at the beginning of a text are words that scale (or measure) a number: ` million dollars`."""
    end = 0
    while word := _WORD.match(text, end):
        measures = units and len(word[1]) > 1 and word[1] != "in" and _known(word[1])  # `72 in all` is no length
        if not measures and singular(word[1]) not in SCALES:
            break
        end = word.end()
    return end


def _known(word: str) -> _Factor | None:
    """Letters alone keep their case: J is a joule, j is none."""
    return _KNOWN.get(word) or (_KNOWN.get(word.lower()) or _KNOWN.get(singular(word)) if len(word) > 1 else None)


def _product(factors: list[_Factor]) -> tuple[frozenset[tuple[str, int]], Fraction]:
    powers = Counter[str]()
    for kind, power, _ in factors:
        powers[kind] += power
    return frozenset(powers.items()), prod((size for *_, size in factors), start=Fraction(1))
