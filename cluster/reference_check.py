"""Can a verifier read the references of a data set? Asked with answers that are none, so it needs no gold answer.

An error on the empty answer alone may be the verifier's dislike of it; where another answer is an error too, every
answer will be: such a problem is generated for, and never trained.
"""

from collections.abc import Sequence
from dataclasses import replace

from rollout.data_errors import shown
from verifiers.pool import VerifierProcesses
from verifiers.records import ScoreRequest, Verdict
from verifiers.spec import VerifierSpec
from verifiers.user_function import NO_OPINION

_ANSWERS = ("", "#### 0")  # the empty one first: no judge is called for it, and no program run
_ROUND = 8  # answers per process and round


async def read_references(
    pool: VerifierProcesses, spec: VerifierSpec, requests: Sequence[ScoreRequest], floor: float, processes: int
) -> list[Verdict | None]:
    """For each request, whatever its response: None where an answer has a verdict, else the verdict that is none.

    Ends early, with fewer, when less than the share `floor` of all can be read any more.
    """
    found: list[Verdict | None] = []
    while len(found) < len(requests) and is_enough(len(requests), found, floor):
        batch = requests[len(found) : len(found) + _ROUND * processes]
        found += await _read(pool, spec, batch)
    return found


def is_enough(asked: int, found: Sequence[Verdict | None], floor: float) -> bool:
    """Whether the share `floor` of what was asked can be read."""
    return sum(verdict is not None for verdict in found) <= asked * (1 - floor) + 1e-9


def sentence(where: str, reference: str, verdict: Verdict) -> str:
    """What is wrong with one row."""
    return f"{where}: reference {shown(reference)}: any answer is {verdict.status}, {verdict.feedback}"


async def _read(pool: VerifierProcesses, spec: VerifierSpec, requests: Sequence[ScoreRequest]) -> list[Verdict | None]:
    unread: dict[int, Verdict] = {}
    left = list(range(len(requests)))
    for answer in _ANSWERS:
        verdicts = await pool.score(spec, [replace(requests[i], response=answer, truncated=False) for i in left])
        unread = {i: v for i, v in zip(left, verdicts, strict=True) if not v.scored and v.rule != NO_OPINION}
        left = list(unread)
    return [unread.get(i) for i in range(len(requests))]
