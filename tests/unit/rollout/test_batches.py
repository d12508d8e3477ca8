from dataclasses import replace

import numpy as np
import pytest

from rollout.batches import is_stale, oldest_trained_version, supervised_batch, supervised_info, training_batch
from rollout.datasets import SupervisedExample


def test_sequences_are_laid_end_to_end_with_the_mask_on_the_answers(make_group):
    groups = [make_group("a", (1.0, None, 0.0), versions=(3, 4)), make_group("b", (0.0, 1.0), versions=(5,))]
    info, batch = training_batch(groups, version=5)
    assert batch.token_ids.tolist() == [7, 8, 9, 100, 100, 7, 8, 9, 102, 102, 7, 8, 9, 100, 7, 8, 9, 101]
    assert batch.loss_mask.tolist() == [False] * 3 + [True] * 2 + [False] * 3 + [True] * 2 + ([False] * 3 + [True]) * 2
    assert batch.versions.tolist() == [-1, -1, -1, 3, 4, -1, -1, -1, 3, 4, -1, -1, -1, 5, -1, -1, -1, 5]
    np.testing.assert_allclose(batch.behaviour_logprobs[:5], [0, 0, 0, -0.1, -0.2], rtol=1e-6)
    assert batch.lengths.tolist() == [5, 5, 4, 4]
    assert batch.rewards.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert batch.group_ids.tolist() == [0, 0, 1, 1]
    assert {a.dtype for a in (batch.token_ids, batch.versions, batch.lengths, batch.group_ids)} == {np.dtype("int32")}
    assert (info.num_sequences, info.num_tokens, info.num_loss_tokens) == (4, 18, 6)
    assert info.groups == (groups[0].key, groups[1].key)


def test_the_numbers_of_a_batch(make_group):
    groups = [
        make_group("a", (1.0, None, 0.0), versions=(3, 4)),
        make_group("b", (0.25,), versions=(5,), truncated=True),
    ]
    info, _ = training_batch(groups, version=5)
    assert info.metrics == pytest.approx(
        {
            "reward": 1.25 / 3,
            "correct_frac": 1 / 3,
            "truncated_frac": 1 / 4,
            "failed_frac": 1 / 4,
            "timeout_frac": 0,
            "error_frac": 1 / 4,
            "response_len_mean": 5 / 3,
            "response_len_max": 2,
            "staleness_mean": (2 + 1 + 2 + 1 + 0) / 5,
            "staleness_max": 2,
            "staleness_frac_0": 1 / 5,
            "staleness_frac_1": 2 / 5,
            "staleness_frac_2": 2 / 5,
            "staleness_frac_3": 0,
            "staleness_frac_4_up": 0,
            "verdict_ms_mean": 1.5,
            "verdict_ms_max": 1.5,
            "verdict_odd": 0 + 1 + 2 + 0,
        }
    )


def test_the_sandbox_tiers_of_a_batch_are_told(make_group):
    group = make_group("a", (1.0, 0.0, 0.0, 1.0))
    tiers = [
        replace(r, verdict=replace(r.verdict, isolation=tier)) for r, tier in zip(group.rollouts, "AAB", strict=False)
    ]
    info, _ = training_batch([replace(group, rollouts=(*tiers, group.rollouts[3]))], version=5)
    assert {name: info.metrics[name] for name in info.metrics if name.startswith("isolation")} == {
        "isolation_A_frac": 0.5,
        "isolation_B_frac": 0.25,
    }
    assert info.isolation == ("A", "B")


def test_masked_tokens_are_not_trained_and_do_not_age(make_group):
    group = make_group("a", (1.0, 0.0), versions=(1, 5))
    for rollout in group.rollouts:
        rollout.loss_mask[0] = False  # a tool's output, sampled by nobody
    _, batch = training_batch([group], version=5)
    assert batch.loss_mask.sum() == 2
    assert (batch.behaviour_logprobs[~batch.loss_mask] == 0).all()
    assert oldest_trained_version(group) == 5


def test_one_old_token_makes_a_group_stale(make_group):
    oldest = oldest_trained_version(make_group(versions=(3, 9, 9)))
    assert oldest == 3
    assert not is_stale(oldest, 5, 2)
    assert is_stale(oldest, 6, 2)
    assert is_stale(oldest, 5, 1.5)


def test_a_group_without_tokens_is_never_stale(make_group):
    assert not is_stale(oldest_trained_version(make_group(versions=())), 100, 0)


def test_supervised_batches_train_what_is_to_be_imitated_and_nothing_else():
    examples = [
        SupervisedExample(np.array([1, 2], np.int32), np.array([3, 4, 5], np.int32), np.array([True, False, True])),
        SupervisedExample(np.array([6], np.int32), np.array([7], np.int32), np.array([True])),
    ]
    batch = supervised_batch(examples)
    assert batch.token_ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert batch.loss_mask.tolist() == [False, False, True, False, True, False, True]
    assert batch.behaviour_logprobs.tolist() == [0.0] * 7
    assert batch.versions.tolist() == [-1] * 7
    assert batch.group_ids.tolist() == [0, 1]
    info = supervised_info(batch)
    assert info.metrics == {"response_len_mean": 1.5, "response_len_max": 2.0}
    assert (info.groups, info.num_sequences, info.num_tokens, info.num_loss_tokens) == ((), 2, 7, 3)
