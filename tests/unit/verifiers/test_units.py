from fractions import Fraction

import pytest

from verifiers.units import read_unit


@pytest.mark.parametrize(
    ("one", "other", "factor"),
    [
        ("feet", "inches", 12),
        ("m", "km", Fraction(1, 1000)),
        ("square meters", "cm^2", 10_000),
        ("sq. ft.", "ft squared", 1),
        ("mL", "cm³", 1),
        ("km/h", "m/s", Fraction(5, 18)),
        ("miles per hour", "mph", 1),
        ("dollars per hour", "cents", 100),
        ("degrees Celsius", "°C", 1),
        ("a.m.", "AM", 1),
        ("kg*m^2/s^2", "g m^2/s^2", 1000),
    ],
)
def test_units_of_one_kind_are_turned_into_each_other(one: str, other: str, factor: Fraction | int) -> None:
    mine, others = read_unit(one), read_unit(other)
    assert mine
    assert others
    assert mine.in_unit_of(others) == factor
    assert others.in_unit_of(mine) == 1 / Fraction(factor)


@pytest.mark.parametrize(
    ("one", "other"),
    [("feet", "square feet"), ("am", "pm"), ("m/s", "m/s^2"), ("°C", "°F"), ("dollars", "euros"), ("kg", "m")],
)
def test_units_of_two_kinds_are_not(one: str, other: str) -> None:
    mine, others = read_unit(one), read_unit(other)
    assert mine
    assert others
    assert mine.in_unit_of(others) is None


@pytest.mark.parametrize("text", ["", "apples", "x", "abc", "per", "^2", "square", "cm or m", "j"])
def test_what_is_no_unit_is_none(text: str) -> None:
    assert read_unit(text) is None
