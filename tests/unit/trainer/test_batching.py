from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.records import TrainingBatch
from trainer.batching import bucket, micro_batches, shard_by_tokens, split_by_groups

BatchMaker = Callable[..., TrainingBatch]
lengths_of_sequences = st.lists(st.integers(1, 40), min_size=1, max_size=60).map(lambda x: np.array(x, np.int32))


@given(lengths_of_sequences, st.integers(1, 5))
def test_every_sequence_lands_on_exactly_one_rank_and_loads_differ_by_one_sequence_at_most(
    lengths: np.ndarray, ranks: int
) -> None:
    shards = shard_by_tokens(lengths, ranks)
    assert sorted(chain(*shards)) == list(range(len(lengths)))
    loads = [int(lengths[shard].sum()) for shard in shards]
    assert max(loads) - min(loads) <= lengths.max()


@given(lengths_of_sequences, st.integers(8, 200))
def test_padded_rows_stay_within_the_limit_unless_one_sequence_is_longer(lengths: np.ndarray, limit: int) -> None:
    order = shard_by_tokens(lengths, 1)[0]
    runs = bucket(lengths, order, limit)
    assert list(chain(*runs)) == order
    for run in runs:
        assert len(run) * lengths[run].max() <= limit or len(run) == 1


def test_ranks_run_equally_many_micro_batches_and_carry_each_loss_token_once(make_batch: BatchMaker) -> None:
    batch = make_batch([30, 4, 5, 6, 29])
    advantages = np.arange(5, dtype=np.float32)
    plans = [micro_batches(batch, advantages, rank, 4, max_tokens=32) for rank in range(4)]
    assert len({len(plan) for plan in plans}) == 1
    micros = [micro for plan in plans for micro in plan]
    assert sum(int(micro.loss_mask.sum()) for micro in micros) == batch.num_loss_tokens
    on_mask = np.sort(np.concatenate([micro.input_ids[micro.loss_mask].numpy() for micro in micros]))
    np.testing.assert_array_equal(on_mask, np.sort(batch.token_ids[batch.loss_mask]))


def test_a_rank_without_sequences_runs_an_empty_micro_batch(make_batch: BatchMaker) -> None:
    (empty,) = micro_batches(make_batch([6]), np.ones(1, np.float32), 1, 2, max_tokens=32)
    assert empty.input_ids.shape == (1, 2)
    assert not empty.loss_mask.any()


def test_rows_carry_their_own_sequence(make_batch: BatchMaker) -> None:
    batch = make_batch([4, 6, 5])
    (micro,) = micro_batches(batch, np.array([1, 2, 3], np.float32), 0, 1, max_tokens=64)
    assert micro.advantages.flatten().tolist() == [2, 3, 1]  # longest first
    start = batch.starts[0]
    assert micro.input_ids[2].tolist() == [*batch.token_ids[start : start + 4], 0, 0]
    assert micro.behaviour[2].tolist() == [*batch.behaviour_logprobs[start : start + 4], 0, 0]


def test_minibatches_are_whole_groups_and_together_the_batch(make_batch: BatchMaker) -> None:
    batch = make_batch([5, 6, 7, 8, 9, 10], group_size=2)
    parts = split_by_groups(batch, 2)
    assert [part.group_ids.tolist() for part in parts] == [[0, 0, 1, 1], [2, 2]]
    np.testing.assert_array_equal(np.concatenate([part.token_ids for part in parts]), batch.token_ids)
    assert sum(part.num_loss_tokens for part in parts) == batch.num_loss_tokens


def test_more_minibatches_than_groups_are_refused(make_batch: BatchMaker) -> None:
    with pytest.raises(ValueError, match="at most the groups of a batch, got 3 and 2"):
        split_by_groups(make_batch([5, 6, 7, 8], group_size=2), 3)
