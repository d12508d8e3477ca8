import pytest

from verifiers.choice import Choice
from verifiers.records import ScoreRequest

CITIES = ["Paris", "Rome", "A Berlin flat", "Madrid"]


def verdict(response: str, reference: str, options=None, truncated: bool = False):
    extras = {} if options is None else {"options": options}
    return Choice().score(ScoreRequest("", response, reference, truncated, extras))


@pytest.mark.parametrize(
    "response",
    [
        "B",
        "b",
        "(B)",
        "B.",
        "The answer is (B).",
        "The answer is B because it is the capital.",
        "The answer is B. A car would not do.",
        "The answer is option B.",
        "**Answer:** B",
        "First I thought: the answer is A. But no: the answer is B.",
        r"The final answer is: $\boxed{B}$",
        r"\boxed{\text{B}}",
        "<think>A or B</think><answer>B</answer>",
        "long thoughts\n(B)",
        "The answer is: B",
        "The correct answer is: (B)",
        "The answer is: **B**",
        "Answer is: B",
        "The answer is B, not A.",
        "The answer is B) since A) is wrong",
        "Option B",
        "I choose B",
        "Therefore, option B is correct.",
        "B) is right",
    ],
)
def test_a_letter_is_read_with_and_without_known_options(response: str) -> None:
    for options in (None, CITIES):
        read = verdict(response, "B", options)
        assert (read.reward, read.answer) == (1.0, "B")


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("Rome", "B"),
        ("Rome", "Rome"),
        ("B", "Rome"),
        ("The answer is rome.", "(B)"),
        ("B) Rome", "B"),
        ("The correct answer is B – Rome", "B"),
        ("The answer is (B) Rome, the capital of Italy.", "B"),
        ("The correct option is C: A Berlin flat.", "C"),
        ("Answer: A Berlin flat", "C"),
        ("**The answer is: B. Rome**", "B"),
        ("The answer is Rome, the capital of Italy.", "B"),
        ("The answer is Rome, not Paris.", "B"),
        ("I choose Rome", "B"),
    ],
)
def test_the_text_of_an_option_is_as_good_as_its_letter(response: str, reference: str) -> None:
    assert verdict(response, reference, CITIES).reward == 1.0


@pytest.mark.parametrize(
    "response",
    [
        "",
        "A, B, C, D",
        "ABCD",
        "A\nB\nC\nD",
        "(A) (B) (C) (D)",
        "The answer is A, B, C or D",
        "The answer is (A) (B) (C) (D)",
        "The answer is A and B",
        "Answer: A/B",
        "The answer is (A) or maybe (B)",
        "The answer is not A",
        "The answer is a matter of taste",
        "A is wrong",
        "A man walks into a bar.",
        "The answer is A) Rome",  # a letter with another option's text
        "Paris, Rome, Madrid",
        "The answer is Paris, Rome, Madrid",
        "The answer is A, not sure",
        "Option A\nOption B\nOption C\nOption D",
        "A is right\nB is right\nC is right\nD is right",
        "I think so",
    ],
)
def test_what_names_no_option_or_several_is_wrong_for_every_reference(response: str) -> None:
    for reference in "ABCD":
        assert verdict(response, reference, CITIES).reward == 0.0


def test_an_unmarked_letter_in_a_truncated_response_is_no_answer() -> None:
    assert verdict("long thoughts\nB", "B", truncated=True).reward == 0.0
    assert verdict("The answer is B", "B", truncated=True).reward == 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"A": "Paris", "B": "Rome"},
        {"label": ["A", "B"], "text": ["Paris", "Rome"]},
        ["(A) Paris", "(B) Rome"],
    ],
)
def test_options_are_read_in_the_forms_that_data_sets_have(options) -> None:
    assert verdict("The answer is Rome.", "B", options).reward == 1.0


def test_labels_may_be_digits() -> None:
    options = {"label": ["1", "2"], "text": ["Paris", "Rome"]}
    assert verdict("The answer is (2).", "2", options).reward == 1.0
    assert verdict("The answer is (1).", "2", options).reward == 0.0


def test_references_may_be_indices_as_in_mmlu() -> None:
    verifier, row = Choice(options_from="choices", index_from=0), {"choices": CITIES}
    assert verifier.score(ScoreRequest("", "The answer is B.", "1", extras=row)).reward == 1.0
    assert verifier.score(ScoreRequest("", "The answer is A.", "1", extras=row)).reward == 0.0
    for reference in ("4", "-1", "B", ""):
        with pytest.raises(ValueError, match="names none of the options"):
            verifier.score(ScoreRequest("", "B", reference, extras=row))


@pytest.mark.parametrize("reference", ["", "1", "Z", "Lisbon", "A or B"])
def test_a_reference_that_names_no_option_is_an_error(reference: str) -> None:
    with pytest.raises(ValueError, match="names none of the options"):
        verdict("A", reference, CITIES)
