import itertools
from collections import Counter

import pytest

from rollout.countdown import CHARACTERS, CountdownProblem, demonstrations, problems, solve
from verifiers.countdown import Countdown
from verifiers.records import ScoreRequest


def correct(answer: str, reference: str) -> bool:
    return Countdown().score(ScoreRequest("", answer, reference)).status == "correct"


def test_a_problem_reads_as_its_prompt_and_its_reference() -> None:
    raw = CountdownProblem((3, 7, 2, 5), 14).raw()
    assert (raw.question, raw.answer, raw.tag) == ("3,7,2,5>14:", "3,7,2,5>14", "4 numbers")


@pytest.mark.parametrize("numbers", [3, 4, 5])
def test_problems_are_different_and_each_has_a_solution_that_the_verifier_accepts(numbers: int) -> None:
    made = problems(numbers, count=60, seed=1)
    assert len({problem.key for problem in made}) == 60
    for problem in made[: 60 if numbers < 5 else 10]:
        assert len(problem.numbers) == numbers
        assert 1 <= problem.target <= 99
        answer = solve(problem.numbers, problem.target)
        assert answer is not None
        assert correct(answer, problem.reference)


def test_held_out_problems_are_none_of_the_training_problems_in_any_order_of_numbers() -> None:
    train = problems(3, count=300, seed=0)
    held_out = problems(3, count=300, seed=1, exclude=train)
    assert not {problem.key for problem in train} & {problem.key for problem in held_out}


def test_the_same_seed_gives_the_same_problems_and_another_seed_others() -> None:
    assert problems(4, 20, seed=3) == problems(4, 20, seed=3)
    assert problems(4, 20, seed=3) != problems(4, 20, seed=4)
    assert list(demonstrations(20, seed=3)) == list(demonstrations(20, seed=3))


def test_more_problems_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="are asked for; ask for fewer"):
        problems(2, count=1_000, seed=0)


def test_an_unsolvable_target_has_no_solution() -> None:
    assert solve((1, 1, 1), 50) is None
    assert solve((3, 7), 21) in ("3*7=21", "7*3=21")


def test_consistent_demonstrations_are_all_correct_and_use_every_number() -> None:
    for prompt, answer in demonstrations(500, seed=0):
        assert correct(answer, prompt.removesuffix(":"))
        assert answer.count(";") == prompt.count(",") - 1


def test_results_on_demonstrated_paths_stay_between_0_and_99() -> None:
    steps = [step for _, answer in demonstrations(500, seed=0) for step in answer.split(";")]
    assert {0 <= int(step.split("=")[1]) <= 99 for step in steps} == {True}


def test_inconsistent_demonstrations_take_legal_steps_to_somewhere_else() -> None:
    pairs = list(demonstrations(1_000, seed=0, consistent=0.4))
    hits = sum(correct(answer, prompt.removesuffix(":")) for prompt, answer in pairs)
    assert 400 <= hits <= 600  # 0.4, and those that another path meets by chance
    for prompt, answer in pairs:
        end = answer.rsplit("=", 1)[1]
        if end != "0":
            assert correct(answer, f"{prompt.split('>')[0]}>{end}")


def test_sizes_follow_the_weights() -> None:
    sizes = Counter(prompt.count(",") + 1 for prompt, _ in demonstrations(2_000, seed=0))
    assert sizes[3] / 2_000 == pytest.approx(0.3, abs=0.04)
    assert sizes[4] / 2_000 == pytest.approx(0.5, abs=0.04)
    assert sizes[5] / 2_000 == pytest.approx(0.2, abs=0.04)


def test_held_out_problems_are_never_demonstrated() -> None:
    held_out = problems(3, count=300, seed=1)
    shown = {prompt for prompt, _ in demonstrations(3_000, seed=0, weights={3: 1.0}, exclude=held_out)}
    orders = {
        CountdownProblem(order, problem.target).prompt
        for problem in held_out
        for order in itertools.permutations(problem.numbers)
    }
    assert not shown & orders


def test_only_the_characters_of_the_tiny_tokenizer_are_used() -> None:
    text = "".join(prompt + answer for prompt, answer in demonstrations(500, seed=0))
    assert set(text) <= set(CHARACTERS)
