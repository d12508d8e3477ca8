import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.config import CountdownConfig
from rollout.countdown import CountdownProblem, demonstrations, solve
from rollout.countdown_sets import held_out_problems, held_out_sets, hidden_problems, training_problems
from verifiers.countdown import Countdown
from verifiers.records import ScoreRequest

CONFIG = CountdownConfig(eval_problems=60, harder_problems=30, other_form_problems=40)


def parsed(prompt: str) -> CountdownProblem:
    """What a prompt of either form asks for."""
    usual = re.fullmatch(r"([\d,]+)>(\d+):", prompt)
    other = re.fullmatch(r"(\d+)=([\d,]+):", prompt)
    assert (usual is None) != (other is None), prompt
    numbers, target = usual.groups() if usual else other.groups()[::-1]
    return CountdownProblem(tuple(int(n) for n in numbers.split(",")), int(target))


def test_each_split_has_every_set_in_its_size_and_form() -> None:
    for split in ("test", "validation"):
        problems = held_out_problems(CONFIG.model_copy(update={"split": split}))
        assert Counter(p.tag for p in problems) == {"3 numbers": 30, "4 numbers": 30, "harder": 30, "other form": 40}
        sizes = {tag: {len(parsed(p.question).numbers) for p in problems if p.tag == tag} for tag in ("harder",)}
        assert sizes == {"harder": {5}}
        assert {len(parsed(p.question).numbers) for p in problems if p.tag == "other form"} == {4}
        assert {">" in p.question for p in problems if p.tag == "other form"} == {False}
        assert {">" in p.question for p in problems if p.tag != "other form"} == {True}


def test_both_forms_ask_for_what_the_reference_says_and_have_ids_of_their_own() -> None:
    problems = held_out_problems(CONFIG)
    for problem in problems:
        assert parsed(problem.question).reference == problem.answer
    assert len({problem.id for problem in problems}) == len(problems)


def test_every_held_out_problem_has_an_answer_that_the_verifier_accepts() -> None:
    for held_out in held_out_sets(CONFIG):
        for problem in held_out.problems[: 40 if held_out.tag != "harder" else 5]:
            answer = solve(problem.numbers, problem.target)
            assert answer is not None
            asked = problem.raw(held_out.tag, held_out.other_form)
            assert Countdown().score(ScoreRequest(asked.question, answer, asked.answer)).status == "correct"


@settings(max_examples=15)
@given(
    st.integers(1, 60), st.integers(0, 20), st.integers(0, 40), st.sampled_from([(3,), (4,), (3, 4)]), st.integers(0, 9)
)
def test_no_problem_is_in_two_sets_nor_in_training_in_any_order_of_numbers(
    evaluated: int, harder: int, other_form: int, sizes: tuple[int, ...], seed: int
) -> None:
    config = CountdownConfig(
        train_problems=100,
        train_numbers=sizes,
        eval_problems=evaluated,
        eval_numbers=sizes,
        harder_problems=harder,
        other_form_problems=other_form,
    )
    hidden = [problem.key for problem in hidden_problems(config)]
    assert len(hidden) == len(set(hidden)) == 2 * (evaluated + harder + other_form)
    trained = [parsed(problem.question) for problem in training_problems(config, seed)]
    assert not set(hidden) & {problem.key for problem in trained}
    assert {problem.question for problem in training_problems(config, seed)} == {p.prompt for p in trained}


def test_neither_the_split_nor_the_seed_of_a_run_changes_what_is_held_out_or_the_split_what_is_trained() -> None:
    validation = CONFIG.model_copy(update={"split": "validation"})
    assert hidden_problems(validation) == hidden_problems(CONFIG)
    assert training_problems(validation, 3) == training_problems(CONFIG, 3)
    assert training_problems(CONFIG, 4) != training_problems(CONFIG, 3)
    assert not {p.answer for p in held_out_problems(validation)} & {p.answer for p in held_out_problems(CONFIG)}


def test_further_sets_leave_the_test_problems_in_distribution_as_they_were() -> None:
    plain = held_out_problems(CountdownConfig(eval_problems=60))
    assert held_out_problems(CONFIG)[:60] == plain


def test_demonstrations_show_no_held_out_problem_of_either_split_in_either_form() -> None:
    hidden = hidden_problems(CountdownConfig(eval_problems=600, harder_problems=100, other_form_problems=100))
    keys = {problem.key for problem in hidden}
    shown = [prompt for prompt, _ in demonstrations(4_000, seed=0, exclude=hidden, other_form=0.5)]
    assert not keys & {parsed(prompt).key for prompt in shown}
    unrestricted = {parsed(prompt).key for prompt, _ in demonstrations(4_000, seed=0)}
    assert len(keys & unrestricted) > 50  # they would be shown


def test_the_other_form_is_shown_in_its_share_and_changes_neither_problems_nor_answers() -> None:
    usual = list(demonstrations(2_000, seed=7))
    mixed = list(demonstrations(2_000, seed=7, other_form=0.2))
    assert [(parsed(prompt), answer) for prompt, answer in mixed] == [(parsed(p), answer) for p, answer in usual]
    assert sum("=" in prompt for prompt, _ in mixed) / 2_000 == pytest.approx(0.2, abs=0.03)
    assert not any("=" in prompt for prompt, _ in usual)


def test_more_held_out_problems_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="countdown problems of 3 numbers were found"):
        held_out_sets(CountdownConfig(eval_problems=3_000, eval_numbers=(3,)))
