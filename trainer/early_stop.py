"""When fine-tuning should stop: held-out loss has not fallen for a while. What is kept is the step of its minimum.

Nothing here acts or waits. What is remembered is a `Lowest`; it is part of the manifest, so that steps which are
trained again after a crash come to the same end.
"""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Lowest:
    """The best step of the phase so far, by held-out loss."""

    loss: float | None = None
    """Mean negative log-likelihood per held-out token, in nats; None before the first check."""
    step: int = 0
    checkpoint: str = ""
    """The learner's state at that step, relative to the run."""
    checks_since: int = 0

    def after(self, loss: float, step: int, checkpoint: str) -> "Lowest":
        """With one more check, after `step`, whose state `checkpoint` is. NaN is no improvement."""
        if self.loss is None or loss < self.loss or not math.isfinite(self.loss):
            return Lowest(loss, step, checkpoint)
        return replace(self, checks_since=self.checks_since + 1)
