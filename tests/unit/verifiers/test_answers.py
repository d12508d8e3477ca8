import time
from fractions import Fraction

import pytest

from verifiers.answers import last_number, marked_answer, number, reference_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} and \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{5} but then \boxed{7", "5"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"} \boxed{\{1,2\}} #### 9", r"\{1,2\}"),
        ("48 and 24\n#### 72\nDone.", "72"),
        ("#### 1 #### 2", "2"),
        ("The answer is 3.5. I am sure.", "3.5"),
        ("the answer is 4. No: the Answer is: 5!", "5"),
        ("five", None),
    ],
)
def test_the_marked_answer_is_found(text: str, answer: str | None) -> None:
    assert marked_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "found"), [("2 and $1,234.50 dollars.", "$1,234.50"), ("10-15", "15"), ("is -3", "-3"), ("none", None)]
)
def test_the_last_number_is_found(text: str, found: str | None) -> None:
    assert last_number(text) == found


def test_references_are_read_as_in_gsm8k_or_whole() -> None:
    assert reference_answer("48/2 = <<48/2=24>>24\n#### 72") == "72"
    assert reference_answer(" 3/4 ") == "3/4"
    assert reference_answer(r"thus \boxed{x+1}") == "x+1"


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


def test_hostile_texts_are_read_in_linear_time() -> None:
    began = time.perf_counter()
    for text in (
        r"\boxed{" * 50_000,
        "5 " + "-aaa" * 50_000 + "!",
        "1," * 100_000,
        "answer is " * 20_000,
        "1 " * 100_000,
    ):
        marked_answer(text)
        last_number(text)
        number(text)
    assert time.perf_counter() - began < 5
