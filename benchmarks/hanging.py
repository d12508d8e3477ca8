"""The math verifier, and words over which it never ends: for `benchmarks/verifiers.py`."""

import time

from verifiers.math_answer import MathAnswer
from verifiers.records import ScoreRequest, Verdict


class Hanging(MathAnswer):
    """Never ends over the answers `wait` and `compute`."""

    name = "hanging"

    def score(self, request: ScoreRequest) -> Verdict:
        """As `math`."""
        while request.response == "compute":
            pass
        while request.response == "wait":
            time.sleep(1)
        return super().score(request)
