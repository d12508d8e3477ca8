from collections.abc import Callable

import numpy as np
import pytest

from rollout.records import TrainingBatch
from trainer.batching import micro_batches, split_by_groups, whole_sequences

BatchMaker = Callable[..., TrainingBatch]


def test_ranks_run_equally_many_micro_batches_and_train_each_loss_token_once(make_batch: BatchMaker) -> None:
    batch = make_batch([30, 4, 5, 6, 29])
    plans = [micro_batches(batch, rank, 4, max_tokens=32, linear_cost=100.0) for rank in range(4)]
    assert len({len(plan) for plan in plans}) == 1
    micros = [micro for plan in plans for micro in plan]
    index = np.concatenate([micro.index[micro.mask].numpy() for micro in micros])
    assert sorted(index) == np.flatnonzero(batch.loss_mask).tolist()
    for micro in micros:
        tokens = micro.sequences.token_ids[micro.targets][micro.mask]
        np.testing.assert_array_equal(tokens.numpy(), batch.token_ids[micro.index[micro.mask]])


def test_a_rank_without_sequences_runs_an_empty_micro_batch(make_batch: BatchMaker) -> None:
    shares = [micro_batches(make_batch([6]), rank, 2, max_tokens=32, linear_cost=100.0) for rank in range(2)]
    assert [len(share) for share in shares] == [1, 1]
    assert sorted(bool(share[0].mask.any()) for share in shares) == [False, True]


def test_positions_start_again_with_each_sequence_and_first_tokens_are_no_targets() -> None:
    micro = whole_sequences([np.array([7, 8, 9], np.int32), np.array([4], np.int32), np.array([5, 6], np.int32)])
    assert micro.sequences.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert micro.sequences.borders.tolist() == [0, 3, 4, 6]
    assert micro.targets.tolist() == [1, 2, 5]
    assert micro.sequence_ids.tolist() == [0, 0, 2]


def test_minibatches_are_whole_groups_and_together_the_batch(make_batch: BatchMaker) -> None:
    batch = make_batch([5, 6, 7, 8, 9, 10], group_size=2)
    parts = split_by_groups(batch, 2)
    assert [part.group_ids.tolist() for part in parts] == [[0, 0, 1, 1], [2, 2]]
    np.testing.assert_array_equal(np.concatenate([part.token_ids for part in parts]), batch.token_ids)
    assert sum(part.num_loss_tokens for part in parts) == batch.num_loss_tokens


def test_more_minibatches_than_groups_are_refused(make_batch: BatchMaker) -> None:
    with pytest.raises(ValueError, match="at most the groups of a batch, got 3 and 2"):
        split_by_groups(make_batch([5, 6, 7, 8], group_size=2), 3)
