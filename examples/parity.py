"""The simplest thing that a policy can learn: answers with an even number of characters. Any model is half right.

    rloop train recipes/smoke.yaml

So a run has something to learn from its first step, without a warm-up: good for trying out machines and faults.
"""

from verifiers.records import ScoreRequest, Verdict


class Parity:
    """Reward 1 for an even number of characters, none excluded."""

    name, version = "parity", "1"

    def score(self, request: ScoreRequest) -> Verdict:
        """Judge one answer."""
        right = len(request.response) % 2 == 0
        return Verdict(float(right), "correct" if right else "wrong", self.name, self.version)
