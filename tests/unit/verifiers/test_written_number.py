from fractions import Fraction

import pytest

from verifiers.written_number import number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$1,234.50 dollars", Fraction(2469, 2)),
        ("1{,}234", 1234),
        (r"\$18", 18),
        ("72.", 72),
        ("**72**", 72),
        ("$-7$", -7),
        ("-$5", -5),
        (r"-\frac{3}{4}", Fraction(-3, 4)),
        ("3 / 4", Fraction(3, 4)),
        ("x = 5", 5),
        (r"5\text{ cm}^2", 5),
        ("5cm", 5),
        ("12-year", 12),
        ("2.5 million", 2_500_000),
        ("1e3", 1000),
        (".5", Fraction(1, 2)),
        ("50%", 50),
    ],
)
def test_numbers_are_read_exactly(text: str, value: Fraction) -> None:
    found = number(text)
    assert found is not None
    assert found.value == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "5x",
        "5 x",
        "5 xy",
        "5^2",
        "5!",
        "5 sqrt 3",
        r"5\pi",
        "3, 4",
        "1,2",
        "7:30",
        "5 and 6",
        "1/0",
        "not 5",
        "--5",
        "9" * 101,
    ],
)
def test_what_is_no_number_is_not_read_as_one(text: str) -> None:
    assert number(text) is None


def test_twenty_percent_is_20_and_a_fifth_but_not_20_percent_of_a_percent() -> None:
    twenty, fifth, sign, small = (number(t) for t in ("20", "0.2", "20%", "0.2%"))
    assert twenty
    assert fifth
    assert sign
    assert small
    assert sign.equals(twenty)
    assert sign.equals(fifth)
    assert fifth.equals(sign)
    assert not twenty.equals(fifth)
    assert not sign.equals(small)
