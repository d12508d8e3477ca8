"""Advantages of REINFORCE: the plain reward, and with the statistics of the batch as baseline and scale."""

import numpy as np

from trainer.advantages.group_relative import centre_by_group
from trainer.advantages.inputs import AdvantageInputs, Advantages
from trainer.advantages.returns import discounted_sums, token_rewards
from trainer.advantages.whitening import whiten

_EPSILON = 1e-6


def reinforce(inputs: AdvantageInputs) -> Advantages:
    """R, without a baseline (Williams 1992)."""
    return Advantages.of_sequences(inputs.rewards, inputs)


def reinforce_pp(inputs: AdvantageInputs) -> Advantages:
    """REINFORCE++ (2501.03262): returns-to-go with γ = 1, whitened over all loss tokens of the batch.

    The return of token t is R minus the KL of tokens t and later, for which the paper takes k1.
    """
    rewards_M = token_rewards(inputs, inputs.rewards)
    return Advantages.of_loss_tokens(whiten(discounted_sums(rewards_M, inputs.loss_lengths, 1.0)), inputs)


def reinforce_pp_baseline(inputs: AdvantageInputs) -> Advantages:
    """REINFORCE++ with baseline (2501.03262): R minus the mean of its group, whitened over all loss tokens.

    In this variant of the paper KL is a loss term (k2), not a part of the reward: `kl` plays no part.
    """
    centred_S = centre_by_group(inputs.rewards, inputs.group_ids)
    return Advantages.of_loss_tokens(whiten(np.repeat(centred_S, inputs.loss_lengths)), inputs)


def lite_ppo(inputs: AdvantageInputs) -> Advantages:
    """Lite PPO (2508.08221): R minus the mean of its group, divided by the deviation of the batch's rewards.

    Sample standard deviation of the rewards themselves, not of the centred ones; meant for the token mean.
    """
    centred_S = centre_by_group(inputs.rewards, inputs.group_ids)
    deviation = inputs.rewards.std(dtype=np.float64, ddof=1) if len(inputs.rewards) > 1 else 0.0
    return Advantages.of_sequences(centred_S / (deviation + _EPSILON), inputs)
