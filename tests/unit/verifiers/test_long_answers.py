"""Answers made to slow a pattern down: a hundred thousand times the same, which none may go over again and again."""

import time

import pytest

from verifiers.catalogue import load
from verifiers.ifeval_checks import CHECKS
from verifiers.records import ScoreRequest

REPEATED = [
    "<answer>",
    "</answer>",
    "[",
    "<<",
    "*",
    "**",
    " ",
    "\n",
    "Mr. ",
    "1. ",
    "1,",
    "answer is ",
    "(A",
    "{",
    "A\n",
    "`",
    "- ",
]
REFERENCES = {"numeric": "5", "choice": "A", "regex": "yes", "exact": "yes", "json_schema": "{}", "language": "ko"}
ARGUMENTS = {
    "keywords": ["cat"],
    "keyword": "cat",
    "forbidden_words": ["cat"],
    "letter": "a",
    "language": "ko",
    "first_word": "cat",
    "postscript_marker": "P.S.",
    "section_spliter": "Section",
    "prompt_to_repeat": "cat",
    "end_phrase": "cat",
    "relation": "at least",
    "let_relation": "at least",
    "capital_relation": "at least",
}


@pytest.mark.parametrize("repeated", REPEATED)
@pytest.mark.parametrize("name", ["exact", "numeric", "choice", "regex", "json_schema", "format", "length", "language"])
def test_a_long_answer_takes_no_longer_than_its_length(name: str, repeated: str) -> None:
    verifier = load(name)
    began = time.process_time()
    verdict = verifier.score(ScoreRequest("", repeated * 100_000, REFERENCES.get(name, "")))
    assert verdict.reward is not None
    assert time.process_time() - began < 20


@pytest.mark.parametrize("repeated", REPEATED)
def test_instructions_are_checked_in_one_go(repeated: str) -> None:
    checked = {name: needed for name, (_, needed) in CHECKS.items() if "english" not in name}
    row = {
        "instruction_id_list": list(checked),
        "kwargs": [{argument: ARGUMENTS.get(argument, 1) for argument in needed} for needed in checked.values()],
    }
    began = time.process_time()
    assert load("ifeval").score(ScoreRequest("", repeated * 100_000, "", extras=row)).reward is not None
    assert time.process_time() - began < 20
