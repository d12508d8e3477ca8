"""The `overlong` verifier: soft punishment of answers that come close to a length limit (DAPO 2503.14476, eq. 13)."""

from dataclasses import replace

from verifiers.length import UNITS, size
from verifiers.nested import Around
from verifiers.options import one_of, whole
from verifiers.records import ScoreRequest, Verdict


def punishment(length: int, maximum: int, cache: int) -> float:
    """DAPO eq. 13: 0 up to maximum - cache, then linearly down to -1 at maximum, -1 beyond."""
    return -min(max((length - (maximum - cache)) / cache, 0.0), 1.0)


class Overlong(Around):
    """Adds the punishment to another verifier's reward; the status stays, for a long right answer is right.

    The same equation in tokens is the trainer's `trainer.rl.overlong_tokens`, and the better one for a limit that is
    in tokens. This one counts words or characters, without a tokenizer; use one of the two, not both.
    """

    name = "overlong"

    def __init__(self, verifier: object = "math", maximum: int = 2_000, cache: int = 500, unit: str = "words") -> None:
        """Options.

        Args:
            verifier: Gives the reward: a name, or `{name: …, options: {…}}`.
            maximum: Length at which the punishment is full.
            cache: Over so many units before it the punishment grows.
            unit: `words` or `characters`.
        """
        super().__init__(verifier)
        self._maximum = whole("maximum", maximum, 1)
        self._cache = whole("cache", cache, 1, self._maximum)
        self._unit = one_of("unit", unit, UNITS)
        self.version = f"1[{self._verifier}]"

    def score(self, request: ScoreRequest) -> Verdict:
        """The verdict with the punishment in its reward and as part `overlong`."""
        verdict = self._verifier.score(request)
        if verdict.reward is None:
            return replace(verdict, verifier=self.name, version=self.version)
        minus = punishment(size(request.response, self._unit), self._maximum, self._cache)
        return replace(
            verdict,
            reward=verdict.reward + minus,
            verifier=self.name,
            version=self.version,
            parts=verdict.parts | {"outcome": verdict.reward, "overlong": minus},
        )
