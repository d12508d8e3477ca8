"""Finished groups that wait for their step."""

from collections.abc import Callable, Sequence

import numpy as np

from rollout.admission import Admission
from rollout.buffer_state import RLPhase
from rollout.config import RolloutConfig
from rollout.curation import keep_all
from rollout.ledger import Ledger
from rollout.prompt_order import PromptOrder, Share
from rollout.records import RolloutGroup

CONFIG = RolloutConfig(group_size=2, groups_per_step=4, max_staleness=1)
PROMPTS = Share(("p0", "p1", "p2", "p3"))


def phase(version: int, ready: Sequence[RolloutGroup] = ()) -> RLPhase:
    admission = Admission(1, 4, version, steps=9, ready=len(ready))
    return RLPhase(0, 0, version, admission, PromptOrder([PROMPTS], 3, Ledger()), keep_all, CONFIG, ready)


def test_the_tokens_of_a_ready_group_are_looked_at_once(make_group: Callable[..., RolloutGroup]):
    groups = [make_group("p0", versions=(5,)), make_group("p1", versions=(4, 5))]
    waiting = phase(5, ready=groups[:1])
    waiting.take(1, 8)
    waiting.finish(groups[1])
    for group in groups:
        for rollout in group.rollouts:
            rollout.response.versions.fill(-99)  # who looks again would call it stale
    for _ in range(3):
        assert waiting.drop_stale() == []
    waiting.version = 6
    assert [group.key.prompt_id for group in waiting.drop_stale()] == ["p1"]
    assert [group.key.prompt_id for group in waiting.ready] == ["p0"]


def test_a_batch_has_the_oldest_groups_first(make_group: Callable[..., RolloutGroup]):
    groups = [make_group(f"p{i}", versions=(version,)) for i, version in enumerate((5, 4, 5, 4))]
    found = phase(5, ready=groups).batch()
    assert found is not None
    info, batch = found
    assert [key.prompt_id for key in info.groups[:2]] in (["p1", "p3"], ["p3", "p1"])
    assert np.unique(batch.versions[batch.loss_mask][:4]).tolist() == [4]
