"""The `exact` verifier: the final answer is the reference, letter for letter after normalisation."""

import re

from verifiers.answers import marked_answer, reference_answer
from verifiers.records import ScoreRequest, Verdict
from verifiers.spelling import plain

_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


class Exact:
    """Compares the marked final answer, or the whole response when nothing is marked.

    Case, surrounding and doubled white space, thousands commas and a trailing period do not count. Nothing is
    searched for inside a longer text: the right word in the wrong place is wrong.
    """

    name = "exact"
    version = "2"

    def gold(self, reference: str) -> str:
        """The answer in the reference, alone."""
        return reference_answer(reference)

    def score(self, request: ScoreRequest) -> Verdict:
        """Reward 1 for equality, else 0."""
        gold = normalise(reference_answer(request.reference))
        if not gold:
            raise ValueError("the reference is empty; every problem needs an answer to be held against")
        marked = marked_answer(request.response)
        answer = normalise(request.response if marked is None else marked)
        if answer == gold:
            return Verdict(1.0, "correct", self.name, self.version, answer=answer)
        feedback = f"answered {answer[:80]!r}, expected {gold[:80]!r}" if answer else "the answer is empty"
        return Verdict(0.0, "wrong", self.name, self.version, feedback=feedback, answer=answer)


def normalise(answer: str) -> str:
    """The form in which answers are compared."""
    return _THOUSANDS.sub("", plain(answer)).casefold()
