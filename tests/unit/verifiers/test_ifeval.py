import importlib.util
import json

import pytest

from verifiers.ifeval import IfEval, loose_variants
from verifiers.ifeval_checks import CHECKS, count_sentences
from verifiers.records import ScoreRequest

HAS_CLASSIFIER = importlib.util.find_spec("py3langid") is not None


def row(*instructions: tuple[str, dict]) -> dict:
    """Columns as the published data has them: every table of arguments has all keys, most of them null."""
    nulls = {"num_words": None, "keywords": None, "relation": None}
    return {
        "key": 1000,
        "instruction_id_list": [name for name, _ in instructions],
        "kwargs": [nulls | arguments for _, arguments in instructions],
    }


def follows(instruction: str, arguments: dict, response: str, **options) -> bool:
    found = IfEval(**options).score(ScoreRequest("", response, "", extras=row((instruction, arguments))))
    assert found.parts == {instruction: found.reward}
    return found.status == "correct"


LESS, LEAST = "less than", "at least"
KNOWN = [
    ("keywords:existence", {"keywords": ["Rome", "c++"]}, "We use C++ in rome.", "We use C in Rome."),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": LEAST}, "Cat and cat", "a cat"),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": LESS}, "a cat", "Cat and cat"),
    ("keywords:forbidden_words", {"forbidden_words": ["can", "a.b"]}, "I cannot, axb.", "I CAN do it"),
    ("keywords:letter_frequency", {"letter": "E", "let_frequency": 3, "let_relation": LEAST}, "Eve ate", "even"),
    ("keywords:letter_frequency", {"letter": "!", "let_frequency": 1, "let_relation": LESS}, "calm", "hey!"),
    ("language:response_language", {"language": "ko"}, "한국어입니다", "hello"),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": LESS},
        "Dr. A. Smith paid 3.50. Fine",
        "One. Two! Three?",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\none\n***\ntwo", "one\n***\n\n***\ntwo"),
    ("length_constraints:number_words", {"num_words": 3, "relation": LEAST}, "well-known fact", "two words"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "However"},
        'First.\n\n"However, then.',
        "However.\n\nThen.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] at [place]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\np. s. more", "Bye. PS more"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye.\nP.P.S. more", "Bye.\nP.S. more"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n - b\n**c**", "* a\n* b\n* c"),
    ("detectable_format:constrained_response", {}, "Hm. My answer is maybe.", "My answer is perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b c**", "****** *a* ** **"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\na\nSection 2\nb",
        "Section 1\na\nSection two\nb",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', '{"a": [1]} as asked'),
    ("detectable_format:title", {}, "<<Poem of joy>>\nJoy.", "<< >>\nJoy."),
    ("combination:two_responses", {}, "yes\n******\nno", "yes\n******\nyes"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write a haiku."}, "write a haiku. Frogs", "Frogs"),
    ("startend:end_checker", {"end_phrase": "Any other questions?"}, 'So. any other questions?" ', "Any questions?"),
    ("startend:quotation", {}, ' "quoted" ', '"'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": LEAST},
        "N.A.S.A. and the UN-LED mission",
        "NASA and Un",
    ),
    ("punctuation:no_comma", {}, "no; none", "one, two"),
]


@pytest.mark.parametrize(("instruction", "arguments", "good", "bad"), KNOWN)
def test_each_instruction_tells_a_response_that_follows_from_one_that_does_not(
    instruction: str, arguments: dict, good: str, bad: str
) -> None:
    assert follows(instruction, arguments, good)
    assert not follows(instruction, arguments, bad)


def test_every_published_instruction_is_tested_here() -> None:
    english = {"change_case:english_capital", "change_case:english_lowercase"}
    assert {instruction for instruction, *_ in KNOWN} | english == set(CHECKS)
    assert len(CHECKS) == 25


@pytest.mark.skipif(not HAS_CLASSIFIER, reason="py3langid is not installed")
def test_case_is_checked_together_with_english() -> None:
    assert follows("change_case:english_capital", {}, "THIS IS AN ENGLISH SENTENCE ABOUT CATS.")
    assert not follows("change_case:english_capital", {}, "DAS IST EIN DEUTSCHER SATZ ÜBER KATZEN.")
    assert follows("change_case:english_lowercase", {}, "this is an english sentence about cats.")
    assert not follows("change_case:english_lowercase", {}, "This is an English sentence about cats.")


@pytest.mark.skipif(HAS_CLASSIFIER, reason="py3langid is installed")
def test_english_is_not_guessed_without_the_classifier_but_the_wrong_case_is_wrong() -> None:
    assert not follows("change_case:english_capital", {}, "Not capital")
    with pytest.raises(ValueError, match="py3langid"):
        follows("change_case:english_capital", {}, "CAPITAL LETTERS")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("One", 1),
        ("One. Two! Three?", 3),
        ('He said "Stop." Then he left.', 2),
        ("Wait... what?! Yes", 3),
        ("Mr. Fox and Dr. A. B. Owl met, e.g. at 3.50 p.", 1),
        ("1. First point.\n2. Second point.", 2),
        ("这是一句。这是两句！", 2),
        ("...", 0),
        ("It ended in 1965. 12. Then nothing.", 3),
        ("An approx. answer. Eh.", 2),
    ],
)
def test_sentences_are_counted_as_people_count_them(text: str, count: int) -> None:
    assert count_sentences(text) == count


def test_an_empty_response_follows_nothing_not_even_no_comma() -> None:
    assert not follows("punctuation:no_comma", {}, "  ")


def test_loose_forgives_a_first_and_a_last_line_and_asterisks() -> None:
    response = "Sure, here it is:\n*yes*\nBye, now"
    assert not follows("punctuation:no_comma", {}, response)
    assert follows("punctuation:no_comma", {}, response, loose=True)
    assert follows("startend:end_checker", {"end_phrase": "yes"}, "*yes*", loose=True)
    assert loose_variants("a\n*b*\nc") == ["a\n*b*\nc", "*b*\nc", "a\n*b*", "*b*", "a\nb\nc", "b\nc", "a\nb", "b"]


def test_all_instructions_must_be_followed_and_partial_credit_is_their_share() -> None:
    columns = row(("punctuation:no_comma", {}), ("startend:quotation", {}), ("punctuation:no_comma", {}))
    request = ScoreRequest("", "no comma", "", extras=columns)
    strict, partial = IfEval().score(request), IfEval(partial=True).score(request)
    assert (strict.reward, strict.status, strict.feedback) == (0.0, "wrong", "not followed: startend:quotation")
    assert (partial.reward, partial.status) == (pytest.approx(2 / 3), "wrong")
    assert len(partial.parts) == 3


def test_instructions_may_stand_in_the_reference() -> None:
    reference = json.dumps(row(("punctuation:no_comma", {})))
    assert IfEval().score(ScoreRequest("", "fine", reference)).reward == 1.0


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({}, "has no instructions"),
        (row(("punctuation:no_semicolon", {})), "no instruction has the id"),
        (row(("keywords:frequency", {"keyword": "a", "frequency": 1})), "needs relation in its kwargs"),
        (row(("keywords:frequency", {"keyword": "a", "frequency": 1, "relation": "about"})), "'less than' or"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}, {}]}, "1 instructions but 2 kwargs"),
    ],
)
def test_a_row_at_fault_is_an_error_and_nothing_is_drawn_at_random(columns: dict, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        IfEval().score(ScoreRequest("", "text", "", extras=columns))
