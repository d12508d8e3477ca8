"""The `reasoning_gym` verifier: tasks of the optional package reasoning-gym, scored by their own scorers."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from verifiers.answers import marked_answer
from verifiers.exact_json import thaw
from verifiers.options import real, text
from verifiers.records import ScoreRequest, Verdict
from verifiers.visible import tagged, visible


class ReasoningGymTask:
    """The reward is what the task's scorer says, 0 to 1, with partial credit where the task gives it.

    A row has the columns `task` (name in reasoning-gym) and `entry` (question, answer, metadata), as
    `verifiers.reasoning_gym_rows` writes them; the reference is only shown. The answer is what stands in the last
    `<answer>` tag, else what is marked as final, else the whole response.
    """

    name = "reasoning_gym"
    version = "2"

    def __init__(self, correct_from: float = 1.0, after: str = "") -> None:
        """Options.

        Args:
            correct_from: Lowest score that counts as a correct answer.
            after: Only what follows the last occurrence of this counts, e.g. `</think>`.
        """
        self._correct_from = real("correct_from", correct_from, 0.01, 1.0)
        self._after = text("after", after)

    def prepare(self) -> None:
        """Import reasoning-gym (seconds); refuses when it is not installed."""
        library()

    def score(self, request: ScoreRequest) -> Verdict:
        """Ask the task's scorer."""
        task, entry = request.extras.get("task"), request.extras.get("entry")
        if not isinstance(task, str) or not isinstance(entry, Mapping):
            raise ValueError(
                "a reasoning-gym row has the columns task and entry, this one has "
                f"{', '.join(request.extras) or 'none'}; make such rows with verifiers.reasoning_gym_rows"
            )
        response = visible(request.response, self._after)
        inside = tagged(response)
        marked = marked_answer(response) if inside is None else inside
        answer = response.strip() if marked is None else marked
        reward = float(scorer(task)(answer, thaw(entry)))
        return Verdict(
            reward,
            "correct" if reward >= self._correct_from else "wrong",
            self.name,
            self.version,
            feedback="" if reward >= self._correct_from else f"{task} gives {reward:g} for {answer[:80]!r}",
            answer=answer,
            expected=request.reference,
            rule=task,
        )


def library() -> Any:
    """The package reasoning-gym. Raises ValueError with the remedy when it is not installed."""
    try:
        import reasoning_gym
    except ModuleNotFoundError as error:
        raise ValueError(
            f"reasoning_gym needs the package reasoning-gym ({error}); pip install reasoning-gym (it builds an "
            "extension: a C compiler must be there)"
        ) from error
    return reasoning_gym


@functools.cache
def scorer(task: str) -> Callable[[str, dict[str, Any]], float]:
    """`(answer, entry) -> score` of a task."""
    return library().get_score_answer_fn(task)  # type: ignore[no-any-return]
