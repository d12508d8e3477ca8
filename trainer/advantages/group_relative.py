"""Advantages relative to the other answers to the same prompt: GRPO, Dr.GRPO, RLOO.

A group whose rewards are all equal, a singleton included, teaches nothing: exactly 0. Advantages of a group sum to 0.
"""

import numpy as np

from rollout.records import FloatArray, IntArray
from trainer.advantages.inputs import AdvantageInputs, Advantages, Float64Array

_EPSILON = 1e-6


def grpo(inputs: AdvantageInputs) -> Advantages:
    """(R - mean) / (std + 1e-6) with the *sample* standard deviation (n - 1), as common implementations have it.

    GRPO with outcome supervision (2402.03300, section 4.1.2), which leaves the convention open. Rewards [1, 0, 0, 1]
    give ±0.8660.
    """
    centred_S = centre_by_group(inputs.rewards, inputs.group_ids)
    variances_S = _group_means(centred_S**2, inputs.group_ids) * _leave_one_out(inputs.group_ids)
    return Advantages.of_sequences(centred_S / (np.sqrt(variances_S) + _EPSILON), inputs)


def grpo_population(inputs: AdvantageInputs) -> Advantages:
    """(R - mean) / (std + 1e-6) with the *population* standard deviation (n). Rewards [1, 0, 0, 1] give ±1."""
    centred_S = centre_by_group(inputs.rewards, inputs.group_ids)
    variances_S = _group_means(centred_S**2, inputs.group_ids)
    return Advantages.of_sequences(centred_S / (np.sqrt(variances_S) + _EPSILON), inputs)


def dr_grpo(inputs: AdvantageInputs) -> Advantages:
    """R - mean (Dr.GRPO 2503.20783, section 3.2): hard and easy prompts are not inflated. [1, 0, 0, 1] give ±0.5."""
    return Advantages.of_sequences(centre_by_group(inputs.rewards, inputs.group_ids), inputs)


def rloo(inputs: AdvantageInputs) -> Advantages:
    """R - mean of the *other* rewards of the group (2402.14740), which is G / (G - 1) × Dr.GRPO's."""
    centred_S = centre_by_group(inputs.rewards, inputs.group_ids)
    return Advantages.of_sequences(centred_S * _leave_one_out(inputs.group_ids), inputs)


def centre_by_group(rewards: FloatArray, group_ids: IntArray) -> Float64Array:
    """[S] reward minus the mean of its group; exactly 0 where all rewards of a group are equal."""
    return rewards - _group_means(rewards, group_ids)  # the double-precision mean of equal single ones is exact


def _group_means(x: FloatArray | Float64Array, group_ids: IntArray) -> Float64Array:
    """[S] mean of x [S] over each sequence's group."""
    _, group_S, sizes_G = np.unique(group_ids, return_inverse=True, return_counts=True)
    return (np.bincount(group_S, x) / sizes_G)[group_S]


def _leave_one_out(group_ids: IntArray) -> Float64Array:
    """[S] n / (n - 1) for each sequence's group of n; 1 for a singleton."""
    _, group_S, sizes_G = np.unique(group_ids, return_inverse=True, return_counts=True)
    return (sizes_G / np.maximum(sizes_G - 1, 1))[group_S]
