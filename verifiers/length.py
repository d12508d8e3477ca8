"""The `length` verifier: the response is as long as it should be, in words or characters."""

import re

from verifiers.options import one_of, text, whole
from verifiers.records import ScoreRequest, Verdict
from verifiers.visible import visible

_WORD = re.compile(r"\w+")
UNITS = ("words", "characters")


def size(response: str, unit: str) -> int:
    """How long a text is: words are runs of letters, digits and underscores; characters are those without the margin.

    There is no tokenizer here: limits in tokens are the trainer's (`trainer.rl.overlong_tokens`).
    """
    return len(_WORD.findall(response)) if unit == "words" else len(response.strip())


class Length:
    """Reward 1 within [minimum, maximum]; outside it falls to 0 over `slack` units. Needs no reference."""

    name = "length"
    version = "1"

    def __init__(
        self, minimum: int = 1, maximum: int = 1_000, slack: int = 0, unit: str = "words", after: str = ""
    ) -> None:
        """Options.

        Args:
            minimum: Shortest length that is right.
            maximum: Longest length that is right.
            slack: Units outside the limits over which the reward falls from 1 to 0; 0 is a sharp edge.
            unit: `words` or `characters`.
            after: Only what follows the last occurrence of this counts, e.g. `</think>`.
        """
        self._minimum = whole("minimum", minimum, 0)
        self._maximum = whole("maximum", maximum, self._minimum)
        self._slack = whole("slack", slack, 0)
        self._unit = one_of("unit", unit, UNITS)
        self._after = text("after", after)

    def score(self, request: ScoreRequest) -> Verdict:
        """Status is `correct` only within the limits, also where `slack` leaves some reward."""
        length = size(visible(request.response, self._after), self._unit)
        excess = max(self._minimum - length, length - self._maximum, 0)
        wanted = f"{self._minimum} to {self._maximum} {self._unit}"
        return Verdict(
            1.0 if not excess else max(0.0, 1 - excess / self._slack) if self._slack else 0.0,
            "wrong" if excess else "correct",
            self.name,
            self.version,
            feedback=f"{length} {self._unit}, expected {wanted}" if excess else "",
            expected=wanted,
            rule="length",
            facts={self._unit: float(length)},
        )
