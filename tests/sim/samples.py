"""Answers as the journal holds them, in plain lists."""

from collections.abc import Sequence
from dataclasses import dataclass

import arithmetic
import numpy as np
from disk import Mount

from rollout.events import PayloadRef
from rollout.journal import read_payloads, read_pieces
from rollout.records import GroupKey


@dataclass(frozen=True, slots=True)
class Sample:
    """A whole answer, or a piece of one."""

    key: GroupKey
    index: int
    prompt: Sequence[int]
    tokens: list[int]
    versions: list[int]
    reward: float | None
    offset: int = 0

    def digest(self) -> int:
        """As a learner sees it that trains on it."""
        return arithmetic.sequence_digest(
            np.array([*self.prompt, *self.tokens]),
            np.array([-1] * len(self.prompt) + self.versions),
            self.reward or 0.0,
        )


def group_samples(journal: Mount, refs: Sequence[PayloadRef]) -> dict[PayloadRef, list[Sample]]:
    """The finished groups at `refs`."""
    return {
        ref: [_sample(row) for row in batch.select(_GROUP).to_pylist()] for ref, batch in read_payloads(journal, refs)
    }


def report_pieces(journal: Mount, refs: Sequence[PayloadRef]) -> dict[PayloadRef, list[Sample]]:
    """The reported pieces at `refs`."""
    return {
        ref: [_sample(row) for row in batch.select(_PIECE).to_pylist()] for ref, batch in read_pieces(journal, refs)
    }


_PIECE = ["purpose", "epoch", "prompt_id", "sample_index", "offset", "token_ids", "versions", "reward"]
_GROUP = ["purpose", "epoch", "prompt_id", "sample_index", "prompt_ids", "token_ids", "versions", "reward"]


def _sample(row: dict) -> Sample:
    return Sample(
        GroupKey(row["purpose"], row["epoch"], row["prompt_id"]),
        row["sample_index"],
        row.get("prompt_ids", ()),
        row["token_ids"],
        row["versions"],
        row["reward"],
        row.get("offset", 0),
    )
