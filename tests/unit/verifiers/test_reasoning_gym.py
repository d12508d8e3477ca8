import importlib.util
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verifiers.exact_json import freeze, thaw
from verifiers.reasoning_gym_rows import rows
from verifiers.reasoning_gym_task import ReasoningGymTask
from verifiers.records import ScoreRequest

INSTALLED = importlib.util.find_spec("reasoning_gym") is not None
KEYS = st.one_of(st.text(), st.integers(), st.tuples(st.integers(), st.text()))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(KEYS, inner, max_size=3),
        st.sets(st.integers() | st.text(), max_size=3),
    ),
)


@given(VALUES)
def test_values_survive_json_with_their_types(value) -> None:
    back = thaw(json.loads(json.dumps(freeze(value))))
    assert back == value
    assert repr(type(back)) == repr(type(value))


def test_a_key_that_looks_like_a_mark_survives() -> None:
    for value in ({"__tuple__": [1]}, {"__pairs__": {"__set__": ()}}, {1: {"__set__": 2}}):
        assert thaw(json.loads(json.dumps(freeze(value)))) == value


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(TypeError, match="a object cannot be written to a row"):
        freeze({"a": [object()]})


@pytest.mark.skipif(INSTALLED, reason="reasoning-gym is installed")
def test_without_the_package_a_sentence_says_how_to_get_it() -> None:
    with pytest.raises(ValueError, match="pip install reasoning-gym"):
        ReasoningGymTask().prepare()
    with pytest.raises(ValueError, match="pip install reasoning-gym"):
        next(rows("leg_counting", 1, 0))


def test_a_row_that_is_none_of_its_own_is_an_error() -> None:
    with pytest.raises(ValueError, match="has answer; make such rows"):
        ReasoningGymTask().score(ScoreRequest("", "1", "1", extras={"answer": "1"}))


@pytest.mark.skipif(not INSTALLED, reason="reasoning-gym is not installed")
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # a library under arc_agi leaves a file open
@pytest.mark.parametrize("task", ["leg_counting", "arc_agi", "countdown", "sudoku"])
def test_gold_answers_are_correct_and_traps_are_not_after_a_row_was_a_line_of_json(task: str) -> None:
    made = [json.loads(json.dumps(row)) for row in rows(task, 3, seed=5)]
    assert [json.loads(json.dumps(row)) for row in rows(task, 3, seed=5)] == made
    for row in made:
        extras = {"task": row["task"], "entry": row["entry"]}
        for response, status in (
            (row["reference"], "correct"),
            (f"Well: <answer>{row['reference']}</answer>", "correct"),
            ("", "wrong"),
            (f"{row['reference']} <answer>no</answer>", "wrong"),
        ):
            verdict = ReasoningGymTask().score(ScoreRequest(row["question"], response, row["reference"], extras=extras))
            assert (verdict.status, verdict.rule) == (status, task)
