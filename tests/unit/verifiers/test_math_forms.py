"""The forms in which people and models write answers: what is the same, and what only looks like it."""

import time

import pytest

from verifiers.math_answer import MathAnswer
from verifiers.records import ScoreRequest

X2Y3, E_X2, ONE_OVER = "x^2y^3", "e^{-x^2}", r"\frac1{2^{2004}}"
MATRIX = r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"


def score(reference: str, response: str) -> tuple[str, float | None]:
    verdict = MathAnswer().score(ScoreRequest("", response, reference))
    return verdict.status, verdict.reward


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        # mixed numbers
        (r"3\frac{1}{2}", r"\frac72"),
        (r"\frac72", r"3\frac12"),
        (r"\frac72", r"3 \frac{1}{2}"),
        ("4/3", "1 1/3"),
        ("1 1/3", "4/3"),
        (r"-2\frac34", r"-\frac{11}{4}"),
        (r"3\frac12\pi", r"\frac72\pi"),
        # powers
        (X2Y3, "y^3x^2"),
        ("4x^2y^4", "(2xy^2)^2"),
        ("3x^2y^2", "3y^2x^2"),
        (E_X2, "e^{-x^{2}}"),
        ("2^{2023}", r"2 \cdot 2^{2022}"),
        ("2^{1000}", "4^{500}"),
        (ONE_OVER, "2^{-2004}"),
        ("x^6", "(x^2)^3"),
        ("(x^2)^3", "x^6"),
        ("8^{9^2}", "2^{243}"),
        ("9^{9^{9}}", "9^{9^9}"),
        # matrices, units behind LaTeX, unions
        (MATRIX, r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
        (MATRIX, r"\begin{bmatrix}1&2\\3&4\end{bmatrix}"),
        (r"\begin{pmatrix}\frac12\\3\end{pmatrix}", r"\begin{pmatrix}1/2\\3\end{pmatrix}"),
        (r"6\pi", r"6\pi\text{ inches}"),
        (r"6\pi", r"6\pi \text{ cm}^2"),
        (r"6\pi\text{ m}", r"600\pi\text{ cm}"),
        (r"24\sqrt3", r"24\sqrt3\text{ square units}"),
        (r"24\sqrt3", r"24\sqrt{3} square units"),
        (r"(-\infty,2)\cup(5,\infty)", r"x<2 \text{ or } x>5"),
        (r"(-\infty,2]\cup[5,\infty)", r"2 \ge x \text{ or } 5 \le x"),
        (r"[0,1]\cup[5,\infty)", r"0 \le x \le 1 \text{ or } x \ge 5"),
        # units of numbers
        ("5", r"5\text{ m}"),
        ("5", "5 m/s"),
        ("3 feet", "36 inches"),
        ("$5", "500 cents"),
        ("$18 per day", "18 dollars"),
        ("5m", r"m \cdot 5"),
        ("6 square feet", r"6\text{ ft}^2"),
        ("50000000", "50 million"),
        ("10 a.m.", "10 am"),
        # words, equations, approximations
        ("xy", "yx"),
        ("18", "9+9=18"),
        ("18", r"9\cdot 2 = 18"),
        ("18", r"\approx 18"),
        # repeating decimals, powers of ten, thousands
        (r"0.\overline{3}", r"\frac13"),
        (r"\frac16", r"0.1\overline{6}"),
        (r"3.0\times10^8", "3e8"),
        ("10000", "10 000"),
        ("1,234,567", "1 234 567"),
    ],
)
def test_the_same_in_another_form_is_correct(reference: str, answer: str) -> None:
    assert score(reference, rf"\boxed{{{answer}}}") == ("correct", 1.0)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (r"3\frac{1}{2}", r"\frac{31}{2}"),
        ("11/3", r"1\tfrac13"),
        ("11/3", "1 1/3"),
        (r"-\frac{23}{4}", r"-2\frac34"),
        (r"\frac{35}{2}", r"3\frac52"),
        *((gold, "0") for gold in (X2Y3, "4x^2y^4", "3x^2y^2", E_X2, "2^{2023}", "2^{1000}", ONE_OVER, "(x^2)^3")),
        ("8^{9^2}", "1"),
        ("a^2+b^2", "a^2b^2"),
        (X2Y3, "x^3y^2"),
        ("2^{2023}", "2^{2024}"),
        ("9^{9^{9}}", "9"),
        (MATRIX, r"\begin{pmatrix}1&2\\3&5\end{pmatrix}"),
        (MATRIX, r"\begin{vmatrix}1&2\\3&4\end{vmatrix}"),
        (r"6\pi\text{ cm}", r"6\pi\text{ m}"),
        (r"(-\infty,2)\cup(5,\infty)", r"x \le 2 \text{ or } x>5"),
        ("[1,2]", r"1\le x<2"),
        ("[1,2]", r"1\le x\le 3"),
        (r"x\ge 5", "(5,\\infty)"),
        (r"x>5", "[5,1]"),
        ("(1,2)", "x<2"),
        ("5", "5xyz"),
        ("5xyz", "5"),
        ("5xyz", "5abc"),
        ("2", "2abc"),
        ("6", "6 abc"),
        ("5m", "5"),
        ("10 am", "10 pm"),
        ("10 pm", "10 am"),
        ("12:30 a.m.", "12:30 p.m."),
        ("5 dollars", "5 cents"),
        ("2 hours", "2 minutes"),
        ("3 feet", "3 inches"),
        ("3 feet", "3 square feet"),
        ("60 km/h", "60 m/s"),
        ("2", "2 thousandths"),
        ("5 cm", "5 m"),
        ("50", "50 million"),
        ("cat", "act"),
        ("ABC", "CBA"),
        ("one", "neo"),
        ("Dan", "And"),
        ("Sam", "mas"),
        ("18", "17 = 18"),
        ("18", "18=18=17"),
        ("18", "> 18"),
        ("18", "x > 18"),
        ("3", r"\ln 3"),
        ("3", "ab 3"),
        ("3", "3!"),
        (r"0.\overline{3}", "0.3"),
    ],
)
def test_what_only_looks_the_same_is_wrong(reference: str, answer: str) -> None:
    assert score(reference, rf"\boxed{{{answer}}}") == ("wrong", 0.0)


@pytest.mark.parametrize(
    ("reference", "response", "reward"),
    [
        (r"\frac12", r"So $x=\frac12$.", 1.0),
        (r"\frac12", r"So x = \frac12.", 1.0),
        ("2", r"So $x=\frac12$.", 0.0),
        ("2", r"It is $\sqrt{2}$", 0.0),
        ("2", "The area is $x^2$", 0.0),
        ("4", "Thus there are 3^4", 0.0),
        ("81", "Thus there are 3^4", 1.0),
        ("7", "The result is −7", 0.0),
        ("-7", "The result is −7", 1.0),
        ("-7", r"\boxed{−7}", 1.0),
        ("72", "So the final result:\n- 72", 1.0),
        ("72", "So we get 72, as required.", 1.0),
        ("4", "so we get 4x", 0.0),
        ("9.8", "It falls at 9.8 m/s^2.", 1.0),
        ("18", "It is $9 + 9 = 18$ in all.", 1.0),
        ("7", "It costs $5 and $7", 1.0),
        ("4", "The total is 4 million", 0.0),
        (r"\frac12", r"<answer>\frac12</answer>", 1.0),
        (r"\frac12", r"\boxed{3} <answer>so \boxed{\frac12}</answer>", 1.0),
        ("6", "The answer is $6$ inches.", 1.0),
        ("6", "The answer is **6** inches.", 1.0),
        ("6", "The answer is 6 because 2*3 = 6.", 1.0),
        ("6", "The answer is 6, which makes sense.", 1.0),
        ("6", "The answer is equal to 6", 1.0),
        ("6", "The answer is Tom has 6 apples", 1.0),
        ("6", "The answer is 6 and that is final.", 1.0),
        ("6", "The answer is approximately 6", 1.0),
        ("6", "The answer is 6, not 7.", 1.0),
        ("6", "#### The answer is 6", 1.0),
        ("6", "#### 2*3 = <<2*3=6>>6", 1.0),
        ("6", "The answer is twice 6", 0.0),
        ("6", "The answer is not 6", 0.0),
        ("6", "The answer is less than 6.", 0.0),
        ("6", "The answer is 6 or 7", 0.0),
        (r"6\pi", r"The answer is $6\pi$ square inches.", 1.0),
        ("St. Louis", "The answer is St. Louis", 1.0),
        ("St. Louis", "The answer is St. Paul", 0.0),
        ("10000", "So there are 10 000.", 1.0),
    ],
)
def test_an_answer_is_found_in_its_sentence(reference: str, response: str, reward: float) -> None:
    assert score(reference, response)[1] == reward


@pytest.mark.parametrize(
    "repeated",
    [
        "\\text{",
        " ",
        "=",
        "1=",
        "\\frac",
        "or ",
        "x<",
        "^",
        "1 000 ",
        "\\[",
        "$",
        "5 m^2 ",
        "not A ",
        "1 1/2 ",
        "<<",
        "**",
    ],
)
def test_a_long_answer_takes_no_longer_than_its_length(repeated: str) -> None:
    long = repeated * 20_000
    began = time.process_time()
    for response in (long, rf"\boxed{{2 {long}\text{{ cm}}}}", f"The answer is {long}", f"<answer>1 {long}</answer>"):
        score("5", response)
    assert time.process_time() - began < 10
