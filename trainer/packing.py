"""Which sequences share a forward pass, and on which rank. Pure arithmetic: every rank computes the whole plan.

Sequences are packed end to end into micro-batches of a token budget. Under FSDP a forward pass is a collective: ranks
run the same number of them, and wait for the slowest each time. So micro-batches are balanced by *cost*, not only by
tokens: attention is quadratic in the length of a sequence.
"""

import heapq
from typing import TypeAlias

import numpy as np

from rollout.records import IntArray

Plan: TypeAlias = list[list[list[int]]]
"""[rank][micro-batch] indices of sequences, ascending; an empty micro-batch has none."""


def plan_micro_batches(lengths: IntArray, world_size: int, max_tokens: int, linear_cost: float) -> Plan:
    """Share out sequences over ranks and micro-batches of at most `max_tokens`; equally many micro-batches per rank.

    Longest processing time first: each sequence, costliest first, goes to the micro-batch of least cost that has room
    for it; when none has, every rank gets one micro-batch more. Micro-batches of similar cost run at the same time.
    A sequence longer than `max_tokens` gets a micro-batch of its own.

    Args:
        lengths: [S] tokens per sequence.
        world_size: Ranks.
        max_tokens: Tokens of a micro-batch.
        linear_cost: Length at which a sequence's attention costs as much as all the rest of the model.
    """
    costs_S = lengths * (1 + lengths / linear_cost)
    costliest_first = np.argsort(-costs_S, kind="stable").tolist()
    fewest = -(-int(np.minimum(lengths, max_tokens).sum()) // (world_size * max_tokens))
    for per_rank in range(fewest, fewest + len(lengths) + 1):
        bins = _fill(lengths, costs_S, costliest_first, per_rank * world_size, max_tokens)
        if bins is not None:
            return _deal(bins, costs_S, world_size)
    raise AssertionError("with a micro-batch for every sequence each has room")


def _fill(
    lengths: IntArray, costs_S: np.ndarray, order: list[int], num_bins: int, max_tokens: int
) -> list[list[int]] | None:
    """Sequences per bin; None when one of them has no room."""
    bins: list[list[int]] = [[] for _ in range(num_bins)]
    room = [max_tokens] * num_bins
    heap = [(0.0, b) for b in range(num_bins)]
    for index in order:
        length, full = int(lengths[index]), []
        while heap and room[heap[0][1]] < length and bins[heap[0][1]]:
            full.append(heapq.heappop(heap))
        if not heap:
            return None
        cost, b = heapq.heappop(heap)
        bins[b].append(index)
        room[b] -= length
        for entry in (*full, (cost + float(costs_S[index]), b)):
            heapq.heappush(heap, entry)
    return bins


def _deal(bins: list[list[int]], costs_S: np.ndarray, world_size: int) -> Plan:
    """Bins to ranks: neighbours in cost run together, and who gets the costlier one alternates."""
    by_cost = sorted(bins, key=lambda members: -float(costs_S[members].sum()))
    plan: Plan = [[] for _ in range(world_size)]
    for turn, start in enumerate(range(0, len(by_cost), world_size)):
        together = by_cost[start : start + world_size]
        for rank, members in enumerate(together if turn % 2 == 0 else reversed(together)):
            plan[rank].append(sorted(members))
    return plan
