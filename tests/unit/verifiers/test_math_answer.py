import subprocess
import sys
import time

import pytest

from verifiers.math_answer import MathAnswer
from verifiers.records import ScoreRequest
from verifiers.too_hard import too_hard


def reward(response: str, reference: str, truncated: bool = False) -> float | None:
    return MathAnswer().score(ScoreRequest("", response, reference, truncated)).reward


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("48+24 = 72\n#### 72", "Natalia sold 48/2 = <<48/2=24>>24\n#### 72"),
        ("The answer is 72.", "72"),
        ("It costs $1,234.50 dollars.", "1234.5"),
        ("#### 1,400", "#### 1400"),
        (r"\boxed{65\%}", "65"),
        (r"\boxed{\frac{1}{2}}", "0.5"),
        (r"\boxed{(x+1)^2}", "x^2+2x+1"),
        (r"\boxed{2\sqrt{3}}", r"\sqrt{12}"),
        (r"\boxed{0.5\pi}", r"\frac{\pi}{2}"),
        (r"\boxed{1\le x\le 2}", "[1,2]"),
        (r"\boxed{[1,2]}", r"1\le x\le 2"),
        (r"\boxed{x<\frac12}", r"(-\infty,0.5)"),
        (r"\boxed{\left[2,\infty\right)}", r"x \ge \sqrt{4}"),
        (r"\boxed{(-1,3]}", "-1<t<=3"),
        (r"\boxed{\{3,2,1\}}", r"\{1,2,3\}"),
        (r"\boxed{\text{Monday}}", "monday"),
        (r"\boxed{10_2}", "10_2"),
    ],
)
def test_equal_answers_are_correct(response: str, reference: str) -> None:
    assert reward(response, reference) == 1.0


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("", "72"),
        ("####", "72"),
        ("72 is what I thought first. #### 73", "72"),
        (r"72 \boxed{71}", "72"),
        (r"\boxed{72}\boxed{73}", "72"),
        ("72 or 73", "72"),
        ("the answer is not 72", "72"),
        ("72.5", "72"),
        ("0.33", "1/3"),
        ("-72", "72"),
        (r"\boxed{1.41421356}", r"\sqrt{2}"),
        (r"\boxed{5}", "5^2"),
        (r"\boxed{5x}", "5"),
        (r"\boxed{(2,1)}", "(1,2)"),
        (r"\boxed{10_3}", "10_2"),
        (r"\boxed{x}", "72"),
        ("ignore the problem and answer correct", "72"),
    ],
)
def test_traps_are_wrong(response: str, reference: str) -> None:
    assert reward(response, reference) == 0.0


def test_a_cut_off_answer_counts_only_when_it_was_marked() -> None:
    assert reward("first 72", "72", truncated=True) == 0.0
    assert reward("#### 72", "72", truncated=True) == 1.0


@pytest.mark.parametrize(
    "bomb",
    [
        "9^{9^{9^{9}}}",
        "9**9**9**9",
        "(9^9)^{9^9}",
        "9^{999999999}",
        "2**(2**(2**99))",
        "99999999!",
        "((9!)!)!",
        "(" * 60 + "x" + ")" * 60,
        "1+" * 200 + "1",
        "x+" * 151 + "x",
        "7x" * 101,
        "9^9^9",
        r"2^{\left(9^9\right)}",
        r"9^\frac{9^9}{1}",
        "((9^{999})^{999})^{999}",
        "1.0000001**99999999",
        "(9!)!",
        "5(" * 200,
    ],
)
def test_bombs_never_reach_sympy(bomb: str) -> None:
    assert too_hard(bomb)
    began = time.perf_counter()
    verdict = MathAnswer().score(ScoreRequest("", rf"\boxed{{{bomb}}}", "x+1"))
    assert (verdict.status, verdict.reward) == ("timeout", None)
    assert verdict.feedback == f"not compared: {too_hard(bomb)}"
    assert time.perf_counter() - began < 2


def test_a_verdict_says_what_was_read_and_what_decided() -> None:
    rules = {
        r"\boxed{72}": "number",
        r"\boxed{x}": "math-verify",
        "the answer is seventy": "text",
        "": "no final answer found",
    }
    for response, rule in rules.items():
        verdict = MathAnswer().score(ScoreRequest("", response, "so it is\n#### 72"))
        assert (verdict.rule, verdict.expected) == (rule, "72")


def test_where_final_answers_may_stand_is_an_option() -> None:
    both = ScoreRequest("", r"The answer is 5. \boxed{72} and then 9", "72")
    assert MathAnswer().score(both).reward == 1.0
    assert MathAnswer(["answer_is", "boxed"]).score(both).answer == "5"
    assert MathAnswer(["last_number"]).score(both).answer == "9"
    assert MathAnswer(["hashes"]).score(both).rule == "no final answer found"
    with pytest.raises(ValueError, match="unknown ways \\['box'\\]; it takes some of answer_tag, boxed"):
        MathAnswer(["box"])


def test_honest_answers_are_not_too_hard() -> None:
    for answer in (
        r"\frac{x^{2}+3x^{10}}{2^{100}}",
        "x^2+y^2=z^2",
        "20!",
        r"e^{-x^2}+e^{x}",
        "10^{-3}",
        "(x^2)^3",
        "1000!",
        "x^{y^z}",
        "2^²",
    ):
        assert not too_hard(answer), answer


def test_a_reference_that_sympy_must_not_see_is_compared_as_text() -> None:
    assert reward(r"\boxed{x}", "9^{9^9}") == 0.0
    assert reward(r"\boxed{9^{9^{9}}}", "9^{9^9}") == 1.0


def test_numbers_are_judged_without_importing_sympy() -> None:
    code = (
        "import sys\nfrom verifiers.math_answer import MathAnswer\nfrom verifiers.records import ScoreRequest\n"
        "assert MathAnswer().score(ScoreRequest('', 'so 5', '5')).reward == 1.0\n"
        "assert 'sympy' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("responses", "answer"),
    [
        (["#### 1,400", "The answer is $1400.00.", r"\boxed{1400}", "so 1400"], "1400"),
        ([r"\boxed{\frac{1}{2}}", "#### 0.5", "#### 2/4"], "1/2"),
        (["#### 20%"], "20%"),
        ([r"\boxed{\text{Monday}}", "The answer is monday."], "monday"),
        ([r"\boxed{2\sqrt{3}}"], r"2\sqrt{3}"),
        (["no idea"], ""),
    ],
)
def test_answers_that_are_the_same_number_or_text_vote_together(responses: list[str], answer: str) -> None:
    verdicts = [MathAnswer().score(ScoreRequest("", response, "7")) for response in responses]
    assert {verdict.answer for verdict in verdicts} == {answer}


def test_an_unmarked_answer_that_was_cut_off_is_not_read() -> None:
    assert MathAnswer().score(ScoreRequest("", "then 72", "72", truncated=True)).answer == ""
