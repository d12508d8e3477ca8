"""Hand-made groups for the tests of the rollout package."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from rollout.records import GroupKey, Prompt, Rollout, RolloutGroup, Segment
from verifiers.records import Verdict


def make_group(
    prompt_id: str = "p0",
    rewards: Sequence[float | None] = (1.0, 0.0),
    *,
    epoch: int = 0,
    versions: Sequence[int] = (0, 0),
    tokens: Sequence[Sequence[int]] | None = None,
    truncated: bool = False,
    purpose: str = "train",
    tag: str = "",
) -> RolloutGroup:
    """Siblings with these rewards (None = no verdict); each has one token per entry of `versions`."""
    prompt = Prompt(prompt_id, f"text of {prompt_id}", (7, 8, 9), "ref", tag=tag)
    rollouts = []
    for i, reward in enumerate(rewards):
        ids = tokens[i] if tokens else [100 + i] * len(versions)
        status = "error" if reward is None else "correct" if reward > 0.5 else "wrong"
        segment = Segment(
            np.array(ids, np.int32),
            -0.1 * np.arange(1, len(ids) + 1, dtype=np.float32),
            np.array(versions, np.int32),
            "length" if truncated else "stop",
        )
        verdict = Verdict(reward, status, "exact", "1", {"answer": reward or 0.0}, f"note {i}")
        fate = "failed" if reward is None else "truncated" if truncated else "finished"
        mask = np.ones(len(ids), np.bool_)
        rollouts.append(Rollout(prompt_id, i, np.array([7, 8, 9], np.int32), segment, mask, verdict, fate))
    return RolloutGroup(GroupKey(purpose, epoch, prompt_id), prompt, tuple(rollouts))


@pytest.fixture(name="make_group")
def make_group_fixture() -> Callable[..., RolloutGroup]:
    return make_group
