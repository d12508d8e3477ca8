"""Inequalities as the intervals that they describe: math-verify does not see unions, and is slow over single ones."""

import re

_OR = re.compile(r"\\text\s*\{\s*or\s*\}|\bor\b|\\lor(?![A-Za-z])|\\vee(?![A-Za-z])|∨")
_RELATION = re.compile(r"(\\l(?:eq?|t)(?![A-Za-z])|\\leqslant|\\g(?:eq?|t)(?![A-Za-z])|\\geqslant|<=|>=|[<>≤≥])")
_NAME = re.compile(r"\\?[A-Za-z]+")
_BRACKETS = re.compile(r"(?:\\left)?\s*[\[(].*[\])]", re.DOTALL)


def alike(gold: str, answer: str) -> tuple[str, str]:
    """Both sides, inequalities as intervals where the other side is one, and those joined by `or` in any case."""
    gold, answer = as_union(gold), as_union(answer)
    if _BRACKETS.fullmatch(gold.strip("$ ")):
        return gold, _interval(answer.strip("$ ")) or answer
    if _BRACKETS.fullmatch(answer.strip("$ ")):
        return _interval(gold.strip("$ ")) or gold, answer
    return gold, answer


def as_union(answer: str) -> str:
    r"""`x<2 \text{ or } x\ge 5` as `(-\infty,2)\cup[5,\infty)`; what is no such thing comes back as it is."""
    pieces = _OR.split(answer.strip("$ "))
    intervals = [_interval(piece) for piece in pieces]
    return r"\cup".join(found for found in intervals if found) if len(pieces) > 1 and all(intervals) else answer


def _interval(inequality: str) -> str | None:
    """The interval of `x < 2`, `2 > x` or `1 < x \\le 2`."""
    sides = [side.strip() for side in _RELATION.split(inequality)]
    if len(sides) == 3 and _NAME.fullmatch(sides[0]) and sides[2]:
        _, relation, bound = sides
        return _above(bound, relation) if _is_greater(relation) else _below(bound, relation)
    if len(sides) == 3 and _NAME.fullmatch(sides[2]) and sides[0]:
        bound, relation, _ = sides
        return _below(bound, relation) if _is_greater(relation) else _above(bound, relation)
    if len(sides) == 5 and _NAME.fullmatch(sides[2]) and _is_greater(sides[1]) == _is_greater(sides[3]):
        if _is_greater(sides[1]):
            sides.reverse()
        low, first, _, second, high = sides
        return f"{'[' if _is_closed(first) else '('}{low},{high}{']' if _is_closed(second) else ')'}"
    return None


def _below(bound: str, relation: str) -> str:
    return rf"(-\infty,{bound}{']' if _is_closed(relation) else ')'}"


def _above(bound: str, relation: str) -> str:
    return rf"{'[' if _is_closed(relation) else '('}{bound},\infty)"


def _is_greater(relation: str) -> bool:
    return relation[0] in ">≥" or relation.startswith(r"\g")


def _is_closed(relation: str) -> bool:
    return relation[0] in "≤≥" or "e" in relation or "=" in relation
