"""`openrlhf:package.module:function`: reward functions written for OpenRLHF, unchanged."""

from collections.abc import Mapping
from typing import Any

from verifiers.records import ScoreRequest, Verdict
from verifiers.user_function import UserFunction, first, scalar


class OpenRlhfReward(UserFunction):
    """`reward_func(queries, prompts, labels)`; a query is prompt and response in one text, a label the reference.

    The response has no special tokens, so a query does not end with that of the end of text. Returns a tensor or list
    of rewards, or a dict of `rewards`, `scores` (which then decide what is correct) and `extra_logs` (kept as parts).
    """

    def __init__(self, path: str, threshold: float = 0.5) -> None:
        """Options.

        Args:
            path: `package.module:function`.
            threshold: A score, or without scores a reward, above it is a correct answer.
        """
        super().__init__("openrlhf", path, threshold)

    def score(self, request: ScoreRequest) -> Verdict:
        """Call the function with a batch of one."""
        returned = self.call([request.prompt + request.response], [request.prompt], [request.reference])
        if not isinstance(returned, Mapping):
            return self.verdict(scalar(first(returned, "OpenRLHF's rewards")))
        if "rewards" not in returned:
            raise ValueError(f"{self.name} returned a dict without 'rewards': it has {', '.join(map(str, returned))}")
        scores: Any = returned.get("scores")
        return self.verdict(
            scalar(first(returned["rewards"], "rewards")),
            decides=None if scores is None else scalar(first(scores, "scores")),
            parts=returned.get("extra_logs"),
        )
