import time

import pytest

from verifiers.answers import last_number, marked_answer, reference_answer
from verifiers.written_number import number


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
        ("The answer is the U.S. dollar. Yes.", "the U.S. dollar"),
        ("#### 3 <answer>5</answer>", "5"),
        ("#### 3 <answer>so 5", "3 <answer>so 5"),
        ("five", None),
    ],
)
def test_the_marked_answer_is_found(text: str, answer: str | None) -> None:
    assert marked_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2 and $1,234.50 dollars.", "$1,234.50"),
        ("10-15", "15"),
        ("is -3", "-3"),
        ("none", None),
        ("10 - 5", "5"),
        ("x = - 5", "- 5"),
        ("−5", "-5"),
        ("on\n- 72", "72"),
        ("3^4", "3^4"),
        ("f(2)", "f(2)"),
        ("4x", "4x"),
        ("5 min", "5 min"),
        ("72 in all", "72"),
        ("$5 and $7", "$7"),
        ("in $x=3$.", "3"),
        (r"\[ x = \frac{3}{4} \]", r"\frac{3}{4}"),
    ],
)
def test_the_last_number_is_found(text: str, found: str | None) -> None:
    assert last_number(text) == found


def test_references_are_read_as_in_gsm8k_or_whole() -> None:
    assert reference_answer("48/2 = <<48/2=24>>24\n#### 72") == "72"
    assert reference_answer(" 3/4 ") == "3/4"
    assert reference_answer(r"thus \boxed{x+1}") == "x+1"


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
