"""Group-relative advantages. Pure NumPy; nothing about tokens or models."""

import numpy as np
import numpy.typing as npt

from rollout.records import FloatArray

_EPSILON = 1e-6


def grpo_advantages(rewards: npt.ArrayLike, group_ids: npt.ArrayLike, normalize_std: bool) -> FloatArray:
    """[S] reward minus the mean of its group, divided by the group's standard deviation.

    GRPO with outcome supervision (2402.03300, section 4.1.2), with the *sample* standard deviation (n - 1) and epsilon
    1e-6 as in common implementations: rewards [1, 0, 0, 1] give ±0.8660; the population convention would give ±1.
    Without `normalize_std` this is Dr.GRPO (2503.20783): ±0.5. A group whose rewards are all equal, a singleton
    included, teaches nothing: exactly 0.
    """
    rewards_S = np.asarray(rewards, np.float64)
    _, group_S = np.unique(np.asarray(group_ids), return_inverse=True)
    sizes_G = np.bincount(group_S)
    means_G = np.bincount(group_S, rewards_S) / sizes_G
    centred_S = rewards_S - means_G[group_S]
    highest_G, lowest_G = np.full(len(sizes_G), -np.inf), np.full(len(sizes_G), np.inf)
    np.maximum.at(highest_G, group_S, rewards_S)
    np.minimum.at(lowest_G, group_S, rewards_S)
    centred_S[(highest_G == lowest_G)[group_S]] = 0.0  # without the rounding error of the mean
    if normalize_std:
        variances_G = np.bincount(group_S, centred_S**2) / np.maximum(sizes_G - 1, 1)
        centred_S /= np.sqrt(variances_G)[group_S] + _EPSILON
    return centred_S.astype(np.float32)
