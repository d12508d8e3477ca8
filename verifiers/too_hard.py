"""What no computer algebra system should see: it would work on it for ever, and cannot be interrupted."""

import math
import re

_MAX_CHARACTERS = 300
_MAX_NESTING = 40
_MAX_DIGITS = 100
_MAX_SIZE = 10_000.0
"""Digits of the largest number that may come up; 2023^2023 has 6,686."""
_MAX_EXPONENT = 4.0
"""Digits of an exponent, or of what a factorial is taken of, less one."""
_LETTER = math.log10(2)  # x^{2023} is as large as 2^{2023} here, which is arbitrary, but kind to polynomials
_SPACING = re.compile(r"\\(?:left|right|[,;:!])")
_TOKEN = re.compile(r"\\[A-Za-z]+|(\d+)(?:\.\d+)?|[A-Za-z]|\*\*|\S")
_OPEN, _CLOSE = frozenset("({["), frozenset(")}]")


def too_hard(answer: str) -> str:
    """Why sympy should not see this answer, or an empty string."""
    if len(answer) > _MAX_CHARACTERS:
        return f"{len(answer)} characters, at most {_MAX_CHARACTERS} are read"
    if sum(c.isdigit() for c in answer) > _MAX_DIGITS:
        return f"more than {_MAX_DIGITS} digits"
    depth = deepest = 0
    for character in answer:
        depth += (character in _OPEN) - (character in _CLOSE)
        deepest = max(deepest, depth)
    if deepest > _MAX_NESTING:
        return f"nested {deepest} deep, at most {_MAX_NESTING}"
    if _Size(answer).largest > _MAX_SIZE:
        return f"a number of more than {_MAX_SIZE:,.0f} digits"
    return ""


class _Size:
    """A bound on the digits of every number in an expression: log10, with quotients and differences taken for products.

    `x^2y^3` and `8^{9^2}` are small; `9^{9^9}`, `((9!)!)!` and `((9^{999})^{999})^{999}` are not.
    """

    def __init__(self, text: str) -> None:
        self._tokens = [m[0] for m in _TOKEN.finditer(_SPACING.sub("", text))]
        self._at = 0
        self.largest = 0.0
        while self._at < len(self._tokens):
            self._sum()
            self._at += 1  # a bracket that nothing opened

    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _sum(self) -> float:
        """What stands up to the next closing bracket."""
        total = term = 0.0
        while (token := self._next()) and token not in _CLOSE:
            if token in ("+", "-", ","):
                self._at += 1
                total, term = _log_sum(total, term), 0.0
            else:
                term += self._power()
        return self._seen(_log_sum(total, term))

    def _power(self) -> float:
        size = self._atom()
        while self._next() == "!":
            self._at += 1
            size = self._seen(10**size * size if size <= _MAX_EXPONENT else math.inf)
        if self._next() in ("^", "**"):
            self._at += 1
            while self._next() in ("+", "-"):
                self._at += 1
            exponent = self._power()
            size = self._seen(size * 10**exponent if exponent <= _MAX_EXPONENT else math.inf)
        return size

    def _atom(self) -> float:
        token = self._next()
        if not token or token in _CLOSE:
            return 0.0
        self._at += 1
        if token in _OPEN:
            size = self._sum()
            self._at += 1
            return size
        if token[0].isdecimal():
            return max(_LETTER, math.log10(1 + int(token.partition(".")[0])))
        size = _LETTER if token[-1].isalpha() else 0.0
        while token[0] == "\\" and self._next() in ("{", "["):  # what a command is applied to
            size += self._atom()
        return size

    def _seen(self, size: float) -> float:
        self.largest = max(self.largest, size)
        return size


def _log_sum(one: float, other: float) -> float:
    """log10(10^one + 10^other), where 0 stands for nothing to add."""
    low, high = sorted((one, other))
    return high if not low or math.isinf(high) else high + math.log10(1 + 10 ** (low - high))
