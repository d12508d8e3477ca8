"""Generates the countdown task: reach a target by combining numbers, one step at a time. Nothing to download.

`3,7,2,5>14:` is answered by `7-3=4;2*5=10;4+10=14`. Numbers are 1 to 9, targets 1 to 99, and every result on a
generated path is an integer from 0 to 99, so that a tiny model can learn the arithmetic. Difficulty is how many
numbers there are. Answers are judged by `verifiers.countdown`, which allows more than is generated here.
"""

import itertools
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from rollout.problems import RawProblem
from verifiers.countdown import apply

CHARACTERS = "0123456789,+-*/=;>:"
"""Every character of prompts and answers."""
MAX_NUMBER = 9
MAX_RESULT = 99
_PATIENCE = 5_000  # known problems in a row after which no new one is expected

Step = tuple[int, str, int, int]
"""a, operator, b, result."""


@dataclass(frozen=True, slots=True)
class CountdownProblem:
    """One problem.

    Example: `CountdownProblem((3, 7, 2, 5), 14).prompt == "3,7,2,5>14:"`
    """

    numbers: tuple[int, ...]
    target: int

    @property
    def reference(self) -> str:
        """What `verifiers.countdown` holds an answer against."""
        return f"{','.join(map(str, self.numbers))}>{self.target}"

    @property
    def prompt(self) -> str:
        """What the model sees."""
        return f"{self.reference}:"

    @property
    def other_form(self) -> str:
        """The same problem written another way, which RL never trains.

        Example: `CountdownProblem((3, 7, 2, 5), 14).other_form == "14=3,7,2,5:"`
        """
        return f"{self.target}={','.join(map(str, self.numbers))}:"

    @property
    def key(self) -> tuple[tuple[int, ...], int]:
        """Equal for problems that differ in the order of their numbers only."""
        return tuple(sorted(self.numbers)), self.target

    def raw(self, tag: str = "", other_form: bool = False) -> RawProblem:
        """The problem as `rollout.prompts` takes it; without a tag it is told by its size."""
        question = self.other_form if other_form else self.prompt
        tag = tag or f"{len(self.numbers)} numbers"
        return RawProblem(f"countdown/{question[:-1]}", question, self.reference, source="countdown", tag=tag)


def problems(numbers: int, count: int, seed: int, exclude: Collection[CountdownProblem] = ()) -> list[CountdownProblem]:
    """`count` solvable problems of `numbers` numbers, all different, none in `exclude`, in whatever order of numbers.

    The target is the end of a random path over all the numbers, so every problem can be solved with all of them.
    Raises `ValueError` when there are not that many.
    """
    rng = random.Random(f"countdown problems {numbers} {seed}")
    taken = {problem.key for problem in exclude}
    found: list[CountdownProblem] = []
    misses = 0
    while len(found) < count and misses < _PATIENCE:
        problem, _ = _random_path(rng, numbers)
        if problem.key in taken:
            misses += 1
        else:
            misses = 0
            taken.add(problem.key)
            found.append(problem)
    if len(found) < count:
        raise ValueError(
            f"only {len(found)} different countdown problems of {numbers} numbers were found, {count} are asked for; "
            f"ask for fewer problems or for more numbers"
        )
    return found


def demonstrations(
    count: int,
    seed: int,
    weights: Mapping[int, float] | None = None,
    consistent: float = 1.0,
    exclude: Collection[CountdownProblem] = (),
    other_form: float = 0.0,
) -> Iterator[tuple[str, str]]:
    """(prompt, answer) pairs to warm up a base policy: random legal paths over random numbers.

    Args:
        count: How many; the same pair may come twice.
        seed: The same arguments give the same pairs.
        weights: How often problems have that many numbers; 3, 4 and 5 with .3, .5 and .2 by default.
        consistent: Share of pairs whose target is what the path ends at. The others show a target that another
            path over the same numbers reaches: they teach legal steps without teaching where to go, and leave a
            base policy that explores.
        exclude: Held-out problems, which are not shown, in either form.
        other_form: Share of prompts in the other form. Problems and answers are the same whatever the share.
    """
    weights = weights or {3: 0.3, 4: 0.5, 5: 0.2}
    rng, forms = random.Random(f"countdown demonstrations {seed}"), random.Random(f"countdown forms {seed}")
    hidden = {problem.key for problem in exclude}
    made = 0
    while made < count:
        (size,) = rng.choices(list(weights), list(weights.values()))
        problem, steps = _random_path(rng, size)
        if rng.random() >= consistent:
            problem = _another_target(rng, problem)
        if problem.key not in hidden:
            made += 1
            yield problem.other_form if forms.random() < other_form else problem.prompt, answer(steps)


def answer(steps: Collection[Step]) -> str:
    """Steps as the model writes them."""
    return ";".join(f"{a}{operator}{b}={result}" for a, operator, b, result in steps)


def solve(numbers: tuple[int, ...], target: int) -> str | None:
    """A shortest answer within the generator's limits, found by trying everything, or None. Slow from 6 numbers on."""
    level: dict[tuple[int, ...], tuple[Step, ...]] = {tuple(sorted(numbers)): ()}
    while level:
        following: dict[tuple[int, ...], tuple[Step, ...]] = {}
        for left, steps in level.items():
            for step, rest in _moves(left):
                if step[3] == target:
                    return answer((*steps, step))
                following.setdefault(tuple(sorted(rest)), (*steps, step))
        level = following
    return None


def _random_path(rng: random.Random, size: int) -> tuple[CountdownProblem, list[Step]]:
    """Random numbers and a random path over all of them that ends at a possible target."""
    while True:
        numbers = tuple(rng.randint(1, MAX_NUMBER) for _ in range(size))
        steps = _walk(rng, numbers)
        if steps[-1][3] >= 1:
            return CountdownProblem(numbers, steps[-1][3]), steps


def _another_target(rng: random.Random, problem: CountdownProblem) -> CountdownProblem:
    """The same numbers with the end of another random path as the target."""
    while True:
        target = _walk(rng, problem.numbers)[-1][3]
        if target >= 1:
            return CountdownProblem(problem.numbers, target)


def _walk(rng: random.Random, numbers: tuple[int, ...]) -> list[Step]:
    """Random legal steps until one number is left. There is always one: a difference or a sum stays in range."""
    left, steps = numbers, []
    while len(left) > 1:
        step, left = rng.choice(_moves(left))
        steps.append(step)
    return steps


def _moves(left: tuple[int, ...]) -> list[tuple[Step, tuple[int, ...]]]:
    """Every legal step, and what is left after it."""
    moves = []
    for i, j in itertools.permutations(range(len(left)), 2):
        rest = tuple(n for k, n in enumerate(left) if k not in (i, j))
        for operator in "+-*/":
            result = apply(left[i], operator, left[j])
            if result is not None and result <= MAX_RESULT:
                moves.append(((left[i], operator, left[j], result), (*rest, result)))
    return moves
