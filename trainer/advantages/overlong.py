"""Reward shaping: answers that come close to the limit are punished a little, those at the limit fully."""

import numpy as np

from rollout.records import FloatArray, IntArray


def overlong_punishment(response_lengths: IntArray, max_tokens: int, cache_tokens: int) -> FloatArray:
    """[S] to be added to the rewards: 0 up to max_tokens - cache_tokens, then linearly down to -1 at max_tokens.

    Soft overlong punishment (DAPO 2503.14476, eq. 13), of response lengths [S] in tokens.
    """
    over_S = response_lengths - (max_tokens - cache_tokens)
    return -np.clip(over_S / cache_tokens, 0.0, 1.0).astype(np.float32)
