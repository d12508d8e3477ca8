"""Values as JSON and back without loss: tuples, sets and keys that are no text survive, which plain JSON changes."""

from typing import Any

_TUPLE, _SET, _PAIRS = "__tuple__", "__set__", "__pairs__"


def freeze(value: Any) -> Any:
    """The value in JSON's types. Raises TypeError for what has no such form."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [freeze(item) for item in value]
    if isinstance(value, tuple):
        return {_TUPLE: [freeze(item) for item in value]}
    if isinstance(value, set | frozenset):
        return {_SET: sorted((freeze(item) for item in value), key=repr)}
    if isinstance(value, dict):
        if all(type(key) is str for key in value) and not {_TUPLE, _SET, _PAIRS} & set(value):
            return {key: freeze(item) for key, item in value.items()}
        return {_PAIRS: [[freeze(key), freeze(item)] for key, item in value.items()]}
    if hasattr(value, "tolist"):
        return freeze(value.tolist())
    raise TypeError(f"a {type(value).__name__} cannot be written to a row: {value!r:.80}")


def thaw(value: Any) -> Any:
    """The value that `freeze` was given, with lists for arrays."""
    if isinstance(value, list):
        return [thaw(item) for item in value]
    if not isinstance(value, dict):
        return value
    match list(value):
        case ["__tuple__"]:
            return tuple(thaw(item) for item in value[_TUPLE])
        case ["__set__"]:
            return {thaw(item) for item in value[_SET]}
        case ["__pairs__"]:
            return {thaw(key): thaw(item) for key, item in value[_PAIRS]}
    return {key: thaw(item) for key, item in value.items()}
