import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifiers.sandbox.values import MAX_DEPTH, Untransportable, decode, encode, equal

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.complex_numbers()
    | st.binary().map(bytearray)
)
KEYS = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
    ),
    max_leaves=20,
)


def exactly(value: object) -> object:
    """A form in which nan equals nan, and 1 is neither 1.0 nor True."""
    if isinstance(value, float):
        return "float", value.hex() if math.isfinite(value) else repr(value)
    if isinstance(value, complex):
        return "complex", exactly(value.real), exactly(value.imag)
    if isinstance(value, (list, tuple)):
        return type(value).__name__, *map(exactly, value)
    if isinstance(value, (set, frozenset)):
        return type(value).__name__, frozenset(map(exactly, value))
    if isinstance(value, dict):
        return "dict", frozenset((exactly(key), exactly(item)) for key, item in value.items())
    return type(value).__name__, bytes(value) if isinstance(value, bytearray) else value


def nothing(number: int) -> object:
    raise AssertionError("there is no handle in this value")


@given(VALUES)
def test_builtin_values_cross_exactly(value: object) -> None:
    assert exactly(decode(json.loads(json.dumps(encode(value))), nothing)) == exactly(value)


@given(st.recursive(SCALARS.filter(lambda v: not isinstance(v, (bytes, bytearray, complex))), st.lists, max_leaves=9))
def test_every_value_without_tuples_equals_itself_as_an_expectation(value: object) -> None:
    assert equal(value, value)


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.floats(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
        max_leaves=20,
    )
)
def test_whatever_json_comes_is_a_value_or_refused(form: object) -> None:
    try:
        decode(form, lambda number: None)
    except Untransportable:
        pass


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


def test_subclasses_of_builtin_types_do_not_cross_as_values() -> None:
    kept: list[object] = []
    assert encode([Liar(1), 1], lambda thing: kept.append(thing) or len(kept) - 1) == [{"h": 0}, 1]
    assert type(kept[0]) is Liar
    with pytest.raises(Untransportable, match="a Liar cannot cross"):
        encode(Liar(1))


def test_too_deep_and_too_large_values_are_refused_on_both_sides() -> None:
    deep: list[object] = []
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(Untransportable, match="deep"):
        encode(deep)
    with pytest.raises(Untransportable, match="deep"):
        decode(deep, nothing)
    with pytest.raises(Untransportable, match="items"):
        encode([0] * 200_001)


@pytest.mark.parametrize(
    "form",
    [
        {"x": 1},
        {"i": "zz"},
        {"i": 5},
        {"d": [[1]]},
        {"d": [[[], 1]]},
        {"s": [[1]]},
        {"b": "xyz"},
        {"h": "1"},
        {"c": []},
        {},
        {"h": True},
    ],
)
def test_a_form_that_nobody_honest_writes_is_refused(form: object) -> None:
    with pytest.raises(Untransportable):
        decode(form, lambda number: None)


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        (5, 5.0, True),
        (True, 1, True),  # as Python's ==
        (1, "1", False),
        ([1, [2, 3]], (1, (2, 3)), True),
        ([1, 2], [2, 1], False),
        ([1, 2], {1, 2}, False),
        ({"a": [1]}, {"a": (1,)}, True),
        ({"1": 2}, {1: 2}, False),
        (float("nan"), float("nan"), True),
        (float("inf"), float("inf"), True),
        (0.3, 0.1 + 0.2, False),
        (None, False, False),
        (1.0, 10**400, False),
        ({1: {2, 3}}, {1: {2, 3}}, True),
    ],
)
def test_results_are_held_against_references_as_python_would(expected: object, got: object, same: bool) -> None:
    assert equal(expected, got) is same


def test_floats_are_near_only_where_a_tolerance_is_given() -> None:
    assert equal([0.3, {"x": 1e9}], [0.1 + 0.2, {"x": 1e9 + 1}], 1e-6)
    assert not equal([0.3], [0.31], 1e-6)
    assert not equal(3, 3.1, 1e-6)
    assert equal(3, 3.0000001, 1e-6)
    assert not equal(10**20, 10**20 + 1, 1e-6)  # ints are exact
    assert not equal(1.0, 10**400, 1e-6)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(), st.floats(0, 1, exclude_max=True))
def test_no_number_is_near_infinity(number: float, tolerance: float) -> None:
    for endless in (math.inf, -math.inf, math.nan):
        assert not equal(number, endless, tolerance)
        assert not equal(endless, number, tolerance)
        assert not equal([[number]], [[endless]], tolerance)
    assert not equal(math.inf, -math.inf, tolerance)
    assert equal(math.inf, math.inf, tolerance)


@pytest.mark.parametrize("tag", ["d", "s", "z"])
def test_keys_made_to_collide_are_refused(tag: str) -> None:
    keys = [{"i": hex(number * (2**61 - 1))} for number in range(200)]
    form = {tag: [[key, 0] for key in keys] if tag == "d" else keys}
    with pytest.raises(Untransportable, match="same hash"):
        decode(form, nothing)
    assert len(decode({tag: [[n, 0] for n in range(5_000)] if tag == "d" else list(range(5_000))}, nothing)) == 5_000
