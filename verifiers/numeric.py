"""The `numeric` verifier: the final answer is a number close enough to the reference."""

from fractions import Fraction

from verifiers.answers import last_number, marked_answer, reference_answer
from verifiers.options import real, text
from verifiers.records import ScoreRequest, Verdict
from verifiers.sentence import only_answer
from verifiers.visible import visible
from verifiers.written_number import Number, number


class Numeric:
    """|answer - reference| <= max(abs_tol, rel_tol * |reference|), computed exactly.

    The answer is the one marked as final, else the last number; without a mark a truncated response has no answer.
    `1.5 \\times 10^{-3}`, `1.5e-3` and `50 million` are read, fractions are exact, units count where both sides have
    one. Around a marked number there may be words that leave it as it is, but no second number, no root and no `less
    than`. When only one side has a percent sign, 20% is 20 and 0.2.
    """

    name = "numeric"
    version = "2"

    def __init__(self, abs_tol: float = 0.0, rel_tol: float = 1e-6, after: str = "") -> None:
        """Options.

        Args:
            abs_tol: Allowed distance, in the unit of the reference.
            rel_tol: Allowed distance as a share of the reference; 0.01 is one percent.
            after: Only what follows the last occurrence of this counts, e.g. `</think>`.
        """
        self._abs_tol = Fraction(repr(real("abs_tol", abs_tol, 0)))
        self._rel_tol = Fraction(repr(real("rel_tol", rel_tol, 0, 1)))
        self._after = text("after", after)

    def gold(self, reference: str) -> str:
        """The number in the reference, marked as final."""
        return f"{self._after}#### {reference_answer(reference)}"

    def score(self, request: ScoreRequest) -> Verdict:
        """Reward 1 within the tolerance, else 0."""
        said = reference_answer(request.reference)
        gold = read_number(said)
        if gold is None:
            raise ValueError(f"the reference {said[:80]!r} is not a number; use the verifier `math` or `exact` for it")
        response = visible(request.response, self._after)
        marked = marked_answer(response)
        found = marked if marked is not None or request.truncated else last_number(response)
        answer = read_number(found) if found else None
        if answer is None:
            why = "no final answer found" if not found else f"not one number: {found[:80]!r}"
            return Verdict(0.0, "wrong", self.name, self.version, feedback=why, expected=said)
        correct = any(self._close(a, g) for a, g in answer.readings(gold))
        return Verdict(
            float(correct),
            "correct" if correct else "wrong",
            self.name,
            self.version,
            feedback="" if correct else f"answered {found!r:.80}, expected {said!r:.80} within the tolerance",
            answer=f"{answer.value}{'%' * answer.percent}",
            expected=said,
            rule="tolerance",
        )

    def _close(self, answer: Fraction, gold: Fraction) -> bool:
        return abs(answer - gold) <= max(self._abs_tol, self._rel_tol * abs(gold))


def read_number(text: str) -> Number | None:
    """The number that a short text says, or None when it says none or more than one, or something about a number."""
    whole = number(text, letters=True)
    if whole is not None:
        return whole
    said = only_answer(text)
    return number(said, letters=True) if said else None
