"""Checks of the options that a recipe gives to a verifier; each raises ValueError with option, value and remedy."""

import math
from collections.abc import Collection


def real(option: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number within [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{option} is a finite number, got {value!r}; write it without quotes, e.g. {option}: 0.5")
    if not low <= value <= high:
        raise ValueError(f"{option} must be {_between(low, high)}, got {value!r}")
    return float(value)


def whole(option: str, value: object, low: float = -math.inf, high: float = math.inf) -> int:
    """A whole number within [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{option} is a whole number, got {value!r}; write it without quotes, e.g. {option}: 3")
    if not low <= value <= high:
        raise ValueError(f"{option} must be {_between(low, high)}, got {value!r}")
    return value


def flag(option: str, value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{option} is true or false, got {value!r}")
    return value


def text(option: str, value: object) -> str:
    """A string, perhaps empty."""
    if not isinstance(value, str):
        raise ValueError(f"{option} is a text, got {value!r}; put it in quotes")
    return value


def one_of(option: str, value: object, allowed: Collection[str]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{option} is one of {', '.join(allowed)}, got {value!r}")
    return value


def _between(low: float, high: float) -> str:
    if math.isinf(high):
        return f"at least {low:g}"
    return f"at most {high:g}" if math.isinf(low) else f"between {low:g} and {high:g}"
