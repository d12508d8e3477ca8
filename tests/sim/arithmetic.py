"""What the modelled learner and engines compute. Fakes and checker share it, and nothing else.

Weights are one number, folded over all that was trained: they tell exactly what they were made of. A token depends on
the one before it, on its place and on the weights that sampled it, so an answer that lost or gained a token anywhere,
or whose tokens bear a wrong version, is recognised from its tokens alone.
"""

import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from rollout.records import TrainingBatch

PROMPT_LENGTH = 2
START = 20_251_101
"""Weights before any training."""
_TOKENS = 1 << 20


def token(before: int, place: int, weights: int) -> int:
    """The token at `place` (from 0) of an answer, after the token `before`; at place 0, after `opening`."""
    value = (before * 0x9E3779B1 + place * 0x85EBCA77 + weights) & 0xFFFFFFFF
    value = ((value ^ value >> 15) * 0x2C1B3C6D) & 0xFFFFFFFF
    return (value ^ value >> 12) % _TOKENS + 1


def opening(seed: int) -> int:
    """What stands before the first token: the sample's seed."""
    return seed & 0x7FFFFFFF


def answer_length(first_token: int) -> int:
    """Tokens of an answer: mostly short, sometimes long."""
    draw = first_token % 61
    return 1 + draw % 5 if draw < 40 else 4 + draw % 9 if draw < 56 else 14 + draw % 12


def reward(text: str) -> float | None:
    """Of a decoded answer: 1, 0, or None where it cannot be judged."""
    draw = zlib.crc32(text.encode()) % 32
    return None if draw == 31 else float(draw % 2)


def decode(token_ids: Sequence[int]) -> str:
    """Text of an answer."""
    return ",".join(map(str, token_ids))


def sequence_digest(token_ids: np.ndarray, versions: np.ndarray, reward: float) -> int:
    """[P + L] tokens and versions (-1 on the prompt) of one trained sequence."""
    versions_crc = zlib.crc32(versions.astype(np.int32).tobytes(), int(reward * 1000))
    return zlib.crc32(token_ids.astype(np.int32).tobytes(), versions_crc)


def batch_digest(sequences: Iterable[int]) -> int:
    """Of a batch, from those of its sequences in order."""
    return zlib.crc32(repr(list(sequences)).encode())


def digest_of(batch: TrainingBatch) -> int:
    """`batch_digest` of what a learner is given."""
    ends = np.cumsum(batch.lengths)
    return batch_digest(
        sequence_digest(batch.token_ids[end - length : end], batch.versions[end - length : end], float(reward))
        for end, length, reward in zip(ends.tolist(), batch.lengths.tolist(), batch.rewards, strict=True)
    )


def trained(weights: int, digest: int) -> int:
    """Weights after one step on a batch."""
    return zlib.crc32(b"%d %d" % (weights, digest))


def merged(parts: Iterable[tuple[int, float]]) -> int:
    """The average of weights, each with its share."""
    return zlib.crc32(repr(list(parts)).encode())


def entropy(digest: int) -> float:
    """Of the policy in a step on a batch: low in some."""
    return 0.0 if digest % 5 == 1 else 1.0
