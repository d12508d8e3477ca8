"""The `countdown` verifier: checks every step of an answer like `7-3=4;2*5=10;4+10=14`. Integers only, no search.

Not every number must be used: reaching the target is the task, and an answer that needs fewer steps is a better
one. Each number may be used once, so that the target cannot be copied and no step repeated.
"""

import re

from verifiers.records import ScoreRequest, Verdict

_NATURAL = r"(0|[1-9]\d{0,8})"  # no signs, no leading zeros: an answer has one spelling
_STEP = re.compile(rf"{_NATURAL}([-+*/]){_NATURAL}={_NATURAL}")
_REFERENCE = re.compile(r"(\d{1,9}(?:,\d{1,9})*)>(\d{1,9})")


class Countdown:
    """Steps are separated by `;`; each takes two numbers that are there and puts back their result.

    The result of the last step must be the target. Results are natural numbers (0 included): a step below 0 or a
    division with a remainder is wrong.
    """

    name = "countdown"
    version = "1"

    def score(self, request: ScoreRequest) -> Verdict:
        """Reward 1 when all steps are true and lead to the target, else 0."""
        reference = _REFERENCE.fullmatch(request.reference.strip())
        if reference is None:
            raise ValueError(f"a countdown reference looks like '3,7,2,5>24', got {request.reference[:80]!r}")
        answer = request.response.strip()
        wrong = _fault([int(n) for n in reference[1].split(",")], int(reference[2]), answer)
        if wrong:
            return Verdict(0.0, "wrong", self.name, self.version, feedback=wrong, answer=answer)
        return Verdict(1.0, "correct", self.name, self.version, answer=answer)


def _fault(left: list[int], target: int, answer: str) -> str:
    """What is wrong with an answer, or an empty string. Uses up the list of numbers."""
    result = None
    for text in answer.split(";"):
        step = _STEP.fullmatch(text)
        if step is None:
            return f"not a step: {text[:40]!r}"
        a, b, result = int(step[1]), int(step[3]), int(step[4])
        for operand in (a, b):
            if operand not in left:
                return f"{text}: {operand} is not there"
            left.remove(operand)
        if apply(a, step[2], b) != result:
            return f"{text} is not true"
        left.append(result)
    return "" if result == target else f"ends at {result}, not at {target}"


def apply(a: int, operator: str, b: int) -> int | None:
    """`a operator b` in the natural numbers; None where it leaves them."""
    if operator == "+":
        return a + b
    if operator == "-":
        return a - b if a >= b else None
    if operator == "*":
        return a * b
    return a // b if b and a % b == 0 else None
