from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.packing import Plan, plan_micro_batches

lengths_of_sequences = st.lists(st.integers(1, 40), min_size=1, max_size=60).map(lambda x: np.array(x, np.int32))


def costs(plan: Plan, lengths: np.ndarray, linear_cost: float) -> np.ndarray:
    """[ranks, micro-batches]"""
    each = lengths * (1 + lengths / linear_cost)
    return np.array([[each[members].sum() for members in rank] for rank in plan])


@given(lengths_of_sequences, st.integers(1, 5), st.integers(8, 200))
def test_every_sequence_is_in_one_micro_batch_within_the_budget_and_ranks_run_equally_many(
    lengths: np.ndarray, ranks: int, budget: int
) -> None:
    plan = plan_micro_batches(lengths, ranks, budget, 50.0)
    assert sorted(chain(*chain(*plan))) == list(range(len(lengths)))
    assert len(plan) == ranks
    assert len({len(rank) for rank in plan}) == 1
    for members in chain(*plan):
        assert lengths[members].sum() <= budget or len(members) == 1


def test_no_more_micro_batches_than_the_tokens_need_when_sequences_are_small() -> None:
    plan = plan_micro_batches(np.full(64, 16, np.int32), 2, 128, 1e9)
    assert [len(rank) for rank in plan] == [4, 4]


def test_cost_and_not_tokens_is_balanced_where_attention_dominates() -> None:
    lengths = np.array([64, 32, 32, 32, 32], np.int32)
    by_cost = costs(plan_micro_batches(lengths, 2, 1000, 1.0), lengths, 1.0)
    by_tokens = costs(plan_micro_batches(lengths, 2, 1000, 1e9), lengths, 1.0)
    assert np.ptp(by_cost) < 100  # 64 against four times 32
    assert np.ptp(by_tokens) > 2000  # 64 + 32 against three times 32


def test_micro_batches_that_run_together_cost_alike_and_ranks_take_turns_with_the_costlier() -> None:
    lengths = np.sort(np.random.default_rng(0).lognormal(4, 0.8, 256)).astype(np.int32) + 1
    c = costs(plan_micro_batches(lengths, 4, 2048, 400.0), lengths, 400.0)
    waste = 1 - c.sum() / (c.max(0).sum() * 4)  # of the time that ranks wait for the slowest
    assert waste < 0.02
    assert c.sum(1).max() / c.sum(1).min() < 1.02


def test_a_sequence_longer_than_the_budget_runs_alone() -> None:
    plan = plan_micro_batches(np.array([100, 5, 5], np.int32), 1, 16, 50.0)
    assert sorted(plan[0]) == [[0], [1, 2]]
