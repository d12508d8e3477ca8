"""`verl:package.module:function`: reward functions written for verl, unchanged."""

from collections.abc import Mapping
from typing import Any

from verifiers.records import ScoreRequest, Verdict
from verifiers.user_function import UserFunction, scalar


class VerlReward(UserFunction):
    """`compute_score(data_source, solution_str, ground_truth, extra_info)`, sync or async.

    Returns a number, or a dict whose `score` is the reward; its `acc`, where there is one, decides what is correct,
    and its numbers are kept as parts. `ground_truth` is `reward_model.ground_truth` where the row kept it, else the
    reference as text.
    """

    def __init__(self, path: str, threshold: float = 0.5, reward_kwargs: Mapping[str, Any] | None = None) -> None:
        """Options.

        Args:
            path: `package.module:function`.
            threshold: An `acc`, or without one a score, above it is a correct answer.
            reward_kwargs: Further arguments by name, as in verl's `custom_reward_function.reward_kwargs`.
        """
        super().__init__("verl", path, threshold)
        if reward_kwargs is not None and not isinstance(reward_kwargs, Mapping):
            raise ValueError(f"reward_kwargs is a mapping of names to values, got {reward_kwargs!r}")
        self._reward_kwargs = dict(reward_kwargs or {})

    def score(self, request: ScoreRequest) -> Verdict:
        """Call the function."""
        model = request.extras.get("reward_model")
        kept = model.get("ground_truth") if isinstance(model, Mapping) else None
        returned = self.call(
            data_source=request.extras.get("data_source", ""),
            solution_str=request.response,
            ground_truth=request.reference if kept is None else kept,
            extra_info=request.extras.get("extra_info") or {},
            **self._reward_kwargs,
        )
        if not isinstance(returned, Mapping):
            return self.verdict(scalar(returned[0] if isinstance(returned, list | tuple) else returned))
        if "score" not in returned:
            raise ValueError(f"{self.name} returned a dict without 'score': it has {', '.join(map(str, returned))}")
        acc = returned.get("acc")
        others = {key: value for key, value in returned.items() if key != "score"}
        return self.verdict(scalar(returned["score"]), decides=None if acc is None else scalar(acc), parts=others)
