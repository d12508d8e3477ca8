from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifiers.numeric import Numeric, read_number
from verifiers.records import ScoreRequest


def reward(response: str, reference: str, truncated: bool = False, **options) -> float | None:
    return Numeric(**options).score(ScoreRequest("", response, reference, truncated)).reward


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("The answer is 9.8 m/s^2.", "9.81"),
        (r"#### $1.5 \times 10^{-3}$ kg", "0.0015"),
        ("It is 6.02 × 10^23 per mole", "6.02e23"),
        ("so 2.5e3", "2500"),
        (r"\boxed{33\%}", "0.33"),
        ("0.33", "33%"),
        (r"\boxed{\frac{1}{3}}", "0.333"),
        ("The answer is approximately $12,345.60 dollars.", "12345.6"),
        ("−5", "-5"),
        ("first 3, then 4, so 7", "7"),
        (r"\boxed{2\frac12}", "2.5"),
        ("2 1/2", "2.5"),
        ("10^2", "100"),
        ("50 million", "50000000"),
        ("It is 50 million.", "50000000"),
        ("1 000", "1000"),
        (r"\boxed{6.02\times10^{23}\,\text{mol}^{-1}}", "6.02e23"),
        ("72, as required", "72"),
        ("The answer is 72, as required", "72"),
        ("The answer is 5 m", "5"),
        (r"so $F = 2 \cdot 3 = 6$ N", "6"),
        ("<answer>5</answer>", "5"),
        ("5 km", "5000 m"),
    ],
)
def test_numbers_within_one_percent_are_correct(response: str, reference: str) -> None:
    assert reward(response, reference, rel_tol=0.01) == 1.0


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("", "5"),
        ("5, no, 6", "5"),
        (r"\boxed{5 or 6}", "5"),
        ("The answer is unknown. 5", "5"),
        ("9.7", "9.81"),
        ("-9.81", "9.81"),
        ("980%", "9.81e4"),
        ("nan", "5"),
        ("1e99999", "5"),
        (r"\boxed{2\frac12}", "10.5"),
        (r"\boxed{\sqrt{4}}", "4"),
        (r"\boxed{\frac{\pi}{4}}", "4"),
        (r"\boxed{4x}", "4"),
        (r"\boxed{> 4}", "4"),
        (r"\boxed{x^4}", "4"),
        ("The answer is not 4", "4"),
        ("The answer is less than 4", "4"),
        ("The answer is $2^4$", "4"),
        ("10^2", "2"),
        ("50 million", "50"),
        ("5 cm", "5 m"),
    ],
)
def test_traps_are_wrong(response: str, reference: str) -> None:
    assert reward(response, reference, rel_tol=0.01) == 0.0


def test_a_truncated_response_needs_a_marked_answer() -> None:
    assert reward("it is 5", "5") == 1.0
    assert reward("it is 5", "5", truncated=True) == 0.0
    assert reward("#### 5", "5", truncated=True) == 1.0


@given(
    gold=st.fractions(-1000, 1000, max_denominator=1000),
    absolute=st.sampled_from([0.0, 0.5, 0.125]),
    relative=st.sampled_from([0.0, 0.25, 0.0625]),
)
def test_the_edge_of_the_tolerance_is_inside_and_a_hair_beyond_it_is_not(
    gold: Fraction, absolute: float, relative: float
) -> None:
    allowed = max(Fraction(absolute), Fraction(relative) * abs(gold))
    options = {"abs_tol": absolute, "rel_tol": relative}
    for side in (-1, 1):
        for beyond, expected in ((Fraction(0), 1.0), (Fraction(1, 10**9), 0.0)):
            answer = gold + side * (allowed + beyond)
            text = rf"\boxed{{{answer.numerator}/{answer.denominator}}}"
            assert reward(text, f"{gold.numerator}/{gold.denominator}", **options) == expected


def test_a_reference_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="use the verifier `math`"):
        reward("3.14", "pi")


@pytest.mark.parametrize("options", [{"abs_tol": -1}, {"rel_tol": "0.1"}, {"rel_tol": 2}, {"abs_tol": True}])
def test_a_senseless_tolerance_is_refused_with_its_value(options) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{name}.*{value!r}"):
        Numeric(**options)


def test_an_exponent_of_a_unit_is_no_number() -> None:
    assert read_number("12 kg*m^2/s^3") == read_number("12")
    assert read_number("12 and 13") is None
