"""Checksums of weights in a file: every rank says what it wrote, every engine what it read, and the two must agree.

A tensor's checksum is a sum over its 4 KiB blocks, modulo 2^64: the block's 64-bit words added up, times a factor of
the block's place. Adding up runs at the speed of memory; the factors tell blocks that changed places; and because it
is a sum, ranks that hold ranges of rows each compute a part. It finds faults, not forgery.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rollout.engine import WeightsDisagree
from rollout.weights import TensorSpec, WeightLayout

Bytes = NDArray[np.uint8]
Sums = NDArray[np.uint64]
T = TypeVar("T")

THREADS = min(4, len(os.sched_getaffinity(0)))
"""One core does not use up the memory's bandwidth; more than a few add nothing."""

_BLOCK = 4096
_GOLDEN = 0x9E3779B97F4A7C15  # its multiples are spread over all 64 bits


def checksum(data: Bytes, start: int = 0) -> int:
    """The part that `data`, which begins `start` bytes into its tensor, has in the tensor's checksum."""
    lead = start % _BLOCK
    first, head = start // _BLOCK, min(_BLOCK - lead, len(data)) if lead else 0
    blocks = (len(data) - head) // _BLOCK
    middle = data[head : head + blocks * _BLOCK].view(np.uint64).reshape(-1, _BLOCK // 8).sum(1)
    total = int((middle * _factors(first + (1 if lead else 0), blocks)).sum())
    if head:
        total += _piece(data[:head], lead, first)
    if tail := len(data) - head - blocks * _BLOCK:
        total += _piece(data[-tail:], 0, first + (1 if lead else 0) + blocks)
    return total % 2**64


def _factors(first: int, count: int) -> Sums:
    places = np.arange(first + 1, first + 1 + count, dtype=np.uint64)
    return places * np.uint64(_GOLDEN) | np.uint64(1)


def _piece(data: Bytes, lead: int, block: int) -> int:
    """Part of a block: the rest counts as zeros."""
    whole = np.zeros(_BLOCK, np.uint8)
    whole[lead : lead + len(data)] = data
    return int(whole.view(np.uint64).sum()) * int(_factors(block, 1)[0])


def sums_in(file: Bytes, layout: WeightLayout) -> Sums:
    """[tensors] checksums of what the file really holds."""

    def of(spec: TensorSpec) -> int:
        return checksum(file[spec.offset : spec.offset + spec.nbytes])

    return np.array(side_by_side(of, layout.tensors), np.uint64)


def promise(file: Bytes, layout: WeightLayout, rank: int, version: int, sums: Iterable[int]) -> None:
    """Write a rank's line: it has written these rows of this version. To be called last."""
    _table(file, layout)[rank] = np.array([version, *sums], np.uint64)


def promised(file: Bytes, layout: WeightLayout, version: int) -> Sums:
    """[tensors] checksums by what the ranks say.

    Raises:
        WeightsDisagree: A rank's line is of another version: its rows are, too.
    """
    table = _table(file, layout)
    for rank, found in enumerate(table[:, 0].tolist()):
        if found != version:
            raise WeightsDisagree(
                f"rank {rank} of {layout.ranks} has not written version {version}: its rows are of version {found}"
            )
    return table[:, 1:].sum(0, dtype=np.uint64)


def compare(read: Sums, written: Sums, layout: WeightLayout, version: int) -> None:
    """Raise `WeightsDisagree`, naming the tensors, unless what was read is what was written."""
    odd = [spec.name for spec, a, b in zip(layout.tensors, read, written, strict=True) if a != b]
    if odd:
        raise WeightsDisagree(
            f"the bytes of version {version} are not those that the learner wrote: {len(odd)} of "
            f"{len(layout.tensors)} checksums differ, first {odd[0]}"
        )


def side_by_side(work: Callable[[Any], T], items: Iterable[Any]) -> list[T]:
    """Results in order; the work is spread over a few threads, which pays where it leaves Python for long."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, items))


def _table(file: Bytes, layout: WeightLayout) -> Sums:
    return file[layout.table_offset : layout.nbytes].view(np.uint64).reshape(layout.ranks, -1)
