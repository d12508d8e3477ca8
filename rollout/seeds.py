"""Seeds of samples. A seed follows from what the sample *is*, so that a second attempt draws the same numbers."""

import hashlib
import json

from rollout.records import GroupKey

_BITS = 63  # engines take signed 64-bit seeds


def sample_seed(run_seed: int, key: GroupKey, sample_index: int, call: str = "answer", position: int = 0) -> int:
    """Seed of one answer: a hash of (run, purpose, epoch, prompt, sample index, call, position), in [0, 2^63).

    Stable over processes, machines and Python versions. Attempt, worker and weights have no part in it. An answer
    that goes on at `position` gets a seed of its own there: drawing the first random numbers again would tie the rest
    of the answer to its beginning.
    """
    identity = json.dumps([run_seed, *key, sample_index, call, position])
    digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _BITS)
