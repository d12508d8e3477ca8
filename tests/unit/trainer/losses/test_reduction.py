from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.losses.options import Reduction
from trainer.losses.reduction import Totals, token_weights

REDUCTIONS: tuple[Reduction, ...] = ("token_mean", "sequence_mean", "sequence_sum", "constant")
MAX_TOKENS = 8

sequences = st.lists(
    st.lists(st.tuples(st.floats(-4, 4), st.booleans()), min_size=1, max_size=6), min_size=1, max_size=6
)
"""(loss, on the mask) of each token of each sequence."""


def totals(sequences: list[list[tuple[float, bool]]]) -> Totals:
    counts = [sum(on for _, on in tokens) for tokens in sequences]
    return Totals(sum(counts), sum(count > 0 for count in counts), MAX_TOKENS)


def reduced(reduction: Reduction, sequences: list[list[tuple[float, bool]]], of_all: Totals) -> float:
    """The part that these sequences, as one micro-batch, have in the reduction."""
    losses = torch.tensor([loss for tokens in sequences for loss, _ in tokens], dtype=torch.float64)
    mask = torch.tensor([on for tokens in sequences for _, on in tokens])
    ids = torch.tensor([i for i, tokens in enumerate(sequences) for _ in tokens])
    return float((token_weights(reduction, mask, ids, len(sequences), of_all) * losses).sum())


def twin(reduction: Reduction, sequences: list[list[tuple[float, bool]]]) -> float:
    kept = [[loss for loss, on in tokens if on] for tokens in sequences]
    kept = [tokens for tokens in kept if tokens]
    if not kept:
        return 0.0
    match reduction:
        case "token_mean":
            return float(np.mean(np.concatenate(kept)))
        case "sequence_mean":
            return float(np.mean([np.mean(tokens) for tokens in kept]))
        case "sequence_sum":
            return float(np.mean([np.sum(tokens) for tokens in kept]))
        case "constant":
            return float(np.sum(np.concatenate(kept)) / (len(kept) * MAX_TOKENS))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@settings(max_examples=30)
@given(sequences=sequences)
def test_weights_give_the_reduction_of_the_twin(
    reduction: Reduction, sequences: list[list[tuple[float, bool]]]
) -> None:
    assert reduced(reduction, sequences, totals(sequences)) == pytest.approx(twin(reduction, sequences), abs=1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@settings(max_examples=30)
@given(sequences=sequences, data=st.data())
def test_no_split_into_micro_batches_changes_the_sum(
    reduction: Reduction, sequences: list[list[tuple[float, bool]]], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(sequences))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(order)))) | {0, len(order)})
    micros = [order[a:b] for a, b in pairwise(cuts)]
    parts = sum(reduced(reduction, micro, totals(sequences)) for micro in micros)
    assert parts == pytest.approx(reduced(reduction, sequences, totals(sequences)), abs=1e-6)


def test_lengths_1_and_3_with_losses_1_and_0() -> None:
    two = [[(1.0, True)], [(0.0, True)] * 3]
    values = {reduction: reduced(reduction, two, totals(two)) for reduction in REDUCTIONS}
    assert values == pytest.approx(
        {"token_mean": 0.25, "sequence_mean": 0.5, "sequence_sum": 0.5, "constant": 0.5 / MAX_TOKENS}
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_term_without_tokens_weighs_nothing(reduction: Reduction) -> None:
    none = [[(3.0, False)], [(5.0, False)]]
    assert reduced(reduction, none, totals(none)) == 0.0
