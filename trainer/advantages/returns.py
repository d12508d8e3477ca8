"""Rewards per token and discounted sums of them, over the loss tokens of each sequence (M in all, end to end)."""

import numpy as np

from rollout.records import FloatArray, IntArray
from trainer.advantages.inputs import AdvantageInputs, Float64Array


def token_rewards(inputs: AdvantageInputs, rewards: FloatArray | Float64Array) -> Float64Array:
    """[M] the sequence's reward [S] on its last loss token, minus the KL of every loss token where there is one."""
    rewards_M = np.zeros(int(inputs.mask.sum()))
    if inputs.kl is not None:
        rewards_M -= inputs.kl[inputs.mask]
    trained_S = inputs.loss_lengths > 0
    rewards_M[np.cumsum(inputs.loss_lengths)[trained_S] - 1] += rewards[trained_S]
    return rewards_M


def discounted_sums(x: Float64Array, lengths: IntArray, discount: float) -> Float64Array:
    """[M] y_t = x_t + discount · y_{t+1} within each of the sequences of `lengths` [S] (sum M).

    All sequences go backwards together, one token a step, longest first, so that those not yet at their start are
    always a prefix.
    """
    longest_first = np.argsort(-lengths, kind="stable")
    last_S = (np.cumsum(lengths) - 1)[longest_first]
    descending_S = lengths[longest_first]
    sums_M = np.zeros(len(x))
    running_S = np.zeros(len(lengths))
    active = len(lengths)
    for step in range(int(lengths.max(initial=0))):
        while descending_S[active - 1] <= step:
            active -= 1
        now = last_S[:active] - step
        running_S = x[now] + discount * running_S[:active]
        sums_M[now] = running_S
    return sums_M
