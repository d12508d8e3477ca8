"""What the buffer promised to its callers: an answer that left it holds whatever happens next.

The network hears the answers; the checker looks whether the journal has kept them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rollout.records import GroupKey, GroupProgress


@dataclass(slots=True)
class Promises:
    """Answers of the buffer that somebody waited for."""

    finished: list[tuple[GroupKey, str, int]] = field(default_factory=list)
    """(group, worker, attempt) of deliveries that were taken."""
    trained: list[tuple[tuple[GroupKey, ...], int]] = field(default_factory=list)
    """(groups, version) of steps that are on record."""
    reported: dict[tuple[GroupKey, int, int], int] = field(default_factory=dict)
    """(group, attempt, sample) → tokens that the buffer has."""

    def hear(self, method: str, args: Sequence[Any], answer: Any) -> None:
        """The buffer answered a call."""
        if method == "finish" and answer:
            worker, attempt, group = args
            self.finished.append((group.key, worker, attempt))
        elif method == "trained":
            self.trained.append((tuple(args[0]), args[1]))
        elif method == "report":
            for progress in args[1]:
                if progress.key not in answer:
                    self._keep(progress)

    def _keep(self, progress: GroupProgress) -> None:
        for piece in progress.pieces:
            sample = (progress.key, progress.attempt, piece.sample_index)
            self.reported[sample] = max(piece.end, self.reported.get(sample, 0))
