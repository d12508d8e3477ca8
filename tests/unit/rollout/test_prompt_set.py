from dataclasses import replace
from typing import Any

import pytest

from rollout.prompt_set import PromptSet
from rollout.records import Prompt

PROMPT = Prompt("a", "1+1?", (1, 2), "2", source="a.jsonl:1", extras='{"level": 1}')


@pytest.mark.parametrize(
    "change",
    [{"text": "2+2?"}, {"token_ids": (1, 3)}, {"reference": "3"}, {"verifier": "exact"}, {"extras": '{"level": 2}'}],
)
def test_what_decides_over_answers_and_verdicts_is_in_the_fingerprint(change: dict[str, Any]) -> None:
    changed = PromptSet([replace(PROMPT, **change)], [])
    assert changed.fingerprint() != PromptSet([PROMPT], []).fingerprint()
    assert PromptSet([], [PROMPT]).fingerprint() != PromptSet([PROMPT], []).fingerprint()


def test_where_a_row_lies_is_not() -> None:
    moved = replace(PROMPT, source="b.jsonl:7", tag="hard")
    assert PromptSet([moved], []).fingerprint() == PromptSet([PROMPT], []).fingerprint()
