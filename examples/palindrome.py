"""A verifier of one's own in a few lines: the answer must be a palindrome that contains the reference.

    rloop train recipes/gsm8k.yaml data.path=words.jsonl verifier.name=examples.palindrome:Palindrome

It is stateless and imports neither torch nor Ray: it runs in a process of its own that may be killed at any moment.
"""

from verifiers.records import ScoreRequest, Verdict


class Palindrome:
    """Reward 1 for a palindrome with the reference in it."""

    name, version = "palindrome", "1"

    def score(self, request: ScoreRequest) -> Verdict:
        """Judge one answer."""
        text = request.response.strip()
        right = bool(text) and text == text[::-1] and request.reference in text
        return Verdict(float(right), "correct" if right else "wrong", self.name, self.version)
