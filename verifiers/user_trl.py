"""`trl:package.module:function`: reward functions written for TRL's GRPOTrainer, unchanged."""

from typing import Any

from verifiers.options import text
from verifiers.records import ScoreRequest, Verdict
from verifiers.user_function import UserFunction, first, scalar

_NOT_COLUMNS = ("prompt", "completion", "completion_ids")  # TRL does not pass these as columns either


class TrlReward(UserFunction):
    """`function(prompts, completions, **columns) -> list[float | None]`, sync or async.

    Conversational when the row's column `prompt` is a list of messages: the completion is then a list with one
    message of the assistant. All further columns of the row are passed by name, each as a list of one. None is no
    opinion: status `error`, never reward 0. `completion_ids` and `trainer_state` are not passed: verifiers see text
    and no trainer.
    """

    _hint = "; the option reference_as says as which column it gets the reference"

    def __init__(self, path: str, threshold: float = 0.5, reference_as: str = "answer") -> None:
        """Options.

        Args:
            path: `package.module:function`.
            threshold: A reward above it is a correct answer.
            reference_as: Column name under which the function gets the reference, where the row has no such column.
        """
        super().__init__("trl", path, threshold)
        self._reference_as = text("reference_as", reference_as)

    def score(self, request: ScoreRequest) -> Verdict:
        """Call the function with a batch of one."""
        messages = request.extras.get("prompt")
        conversational = isinstance(messages, list)
        completion: Any = [{"role": "assistant", "content": request.response}] if conversational else request.response
        columns = {name: [value] for name, value in request.extras.items() if name not in _NOT_COLUMNS}
        columns.setdefault(self._reference_as, [request.reference])
        metrics: dict[str, Any] = {}
        returned = self.call(
            prompts=[messages if conversational else request.prompt],
            completions=[completion],
            **columns,
            **self._logs(metrics),
        )
        reward = first(returned, "TRL's list of rewards")
        return self.no_opinion() if reward is None else self.verdict(scalar(reward), parts=metrics)

    def _logs(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """TRL's hooks for logging: metrics become parts of the verdict, further columns are not kept."""
        return {"log_metric": metrics.__setitem__, "log_extra": lambda column, values: None}
