"""Values that may cross the wall, as JSON: exact builtin types and nothing else. No pickle, no classes, no code.

None, bool, str, float (exact, with nan and inf), list and ints of up to 64 bits are themselves; everything else is an
object with one key, its tag. What has no form of its own stays where it is and crosses as the number of a handle.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

MAX_DEPTH = 100
MAX_ITEMS = 200_000
_MAX_ALIKE = 100  # keys of one container with the same hash; honest ones have two, and each costs time for each

_CONTAINERS: dict[str, type] = {"t": tuple, "s": set, "z": frozenset}
_TAGS = {kind: tag for tag, kind in _CONTAINERS.items()}
_AS_DICT = ("Counter", "OrderedDict", "defaultdict")  # of collections; they equal a dict with the same items


class Untransportable(ValueError):
    """Too deep or too large to cross, or not of the form that crosses."""


def encode(value: Any, handle: Callable[[Any], int] | None = None) -> Any:
    """The form in which a value crosses.

    Args:
        value: What is to cross.
        handle: Gives the number under which an object that cannot cross is kept; without it that is an error.

    Raises:
        Untransportable: When it cannot.
    """
    left = MAX_ITEMS

    def walk(value: Any, depth: int) -> Any:
        nonlocal left
        kind = type(value)
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            raise Untransportable(f"more than {MAX_ITEMS} items" if left < 0 else f"nested more than {MAX_DEPTH} deep")
        if value is None or kind is bool or kind is str or kind is float:
            return value
        if kind is int:
            return value if value.bit_length() <= 64 else {"i": hex(value)}
        if kind is list:
            return [walk(item, depth + 1) for item in value]
        if kind in _TAGS:
            return {_TAGS[kind]: [walk(item, depth + 1) for item in value]}
        if kind is dict or (kind.__module__ == "collections" and kind.__name__ in _AS_DICT):
            return {"d": [[walk(k, depth + 1), walk(v, depth + 1)] for k, v in value.items()]}
        if kind is complex:
            return {"c": [value.real, value.imag]}
        if kind is bytes or kind is bytearray:
            return {"b" if kind is bytes else "B": value.hex()}
        if handle is None:
            raise Untransportable(f"a {kind.__name__} cannot cross; builtin values can")
        return {"h": handle(value)}

    return walk(value, 0)


def decode(form: Any, handle: Callable[[int], Any]) -> Any:
    """The value of a form, whoever wrote it.

    Args:
        form: JSON as Python reads it.
        handle: What stands for the object with this number.

    Raises:
        Untransportable: When it is no such form.
    """
    left = MAX_ITEMS

    def walk(form: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > MAX_DEPTH:
            raise Untransportable("too many items" if left < 0 else "nested too deep")
        if isinstance(form, list):
            return [walk(item, depth + 1) for item in form]
        if not isinstance(form, dict):
            return form
        if len(form) != 1:
            raise Untransportable("an object that is no tagged value")
        tag, content = next(iter(form.items()))
        if tag == "t":
            return tuple(walk(item, depth + 1) for item in content)
        if tag in _CONTAINERS:
            return _CONTAINERS[tag](_spread([walk(item, depth + 1) for item in content]))
        if tag == "d":
            keys = _spread([walk(key, depth + 1) for key, _ in content])
            return dict(zip(keys, (walk(value, depth + 1) for _, value in content), strict=True))
        if tag == "i":
            return int(content, 16)
        if tag == "c":
            return complex(float(content[0]), float(content[1]))
        if tag in ("b", "B"):
            return (bytes if tag == "b" else bytearray).fromhex(content)
        if tag == "h" and type(content) is int:
            return handle(content)
        raise Untransportable(f"an unknown tag {str(tag)[:10]!r}")

    try:
        return walk(form, 0)
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        raise Untransportable(str(error)[:200]) from None


def _spread(keys: list[Any]) -> Iterable[Any]:
    """The keys of a container. Raises Untransportable when they are made to collide, so as to cost us our time."""
    if len(keys) > _MAX_ALIKE and Counter(map(hash, keys)).most_common(1)[0][1] > _MAX_ALIKE:
        raise Untransportable(f"a container with more than {_MAX_ALIKE} keys of the same hash")
    return keys


def equal(expected: Any, got: Any, tolerance: float = 0.0) -> bool:
    """Whether a decoded result is what a reference in JSON says.

    As Python's `==`, but a tuple may stand for a list, which JSON has no other word for, and nan equals nan. With a
    tolerance, finite floats are equal within it, absolutely or relatively to the larger.
    """
    if isinstance(expected, float) or isinstance(got, float):
        if isinstance(expected, (int, float)) and isinstance(got, (int, float)):
            return _near(expected, got, tolerance)
        return False
    if isinstance(expected, (list, tuple)):
        if not isinstance(got, (list, tuple)) or len(expected) != len(got):
            return False
        return all(equal(a, b, tolerance) for a, b in zip(expected, got, strict=True))
    if isinstance(expected, dict):
        if not isinstance(got, dict) or expected.keys() != got.keys():
            return False
        return all(equal(value, got[key], tolerance) for key, value in expected.items())
    return bool(expected == got)


def _near(a: float, b: float, tolerance: float) -> bool:
    if a == b or (a != a and b != b):
        return True
    try:
        return math.isfinite(a) and math.isfinite(b) and abs(a - b) <= tolerance * max(1.0, abs(a), abs(b))
    except OverflowError:  # an int beyond every float
        return False
