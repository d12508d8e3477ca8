"""Finished groups → one training batch, packed end to end, and its numbers. Also supervised batches.

S sequences, N tokens. Siblings without a verdict are left out; a group too old for the bound is not accepted here.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rollout.datasets import SupervisedExample
from rollout.records import BatchInfo, GroupKey, Rollout, RolloutGroup, TrainingBatch

_OLDEST = 4  # versions; tokens as old as this and older are counted together
_FAILED = ("timeout", "error")


def oldest_trained_version(group: RolloutGroup) -> int | None:
    """Smallest version among the tokens that would be trained; None when there are none."""
    versions = [r.response.versions[r.loss_mask] for r in group.rollouts if r.trainable]
    return min((int(v.min()) for v in versions if len(v)), default=None)


def is_stale(oldest: int | None, version: int, max_staleness: float) -> bool:
    """True when the step that starts from `version` may not train a group: its oldest token is older than η."""
    return oldest is not None and version - oldest > max_staleness


def training_batch(groups: Sequence[RolloutGroup], version: int) -> tuple[BatchInfo, TrainingBatch]:
    """Pack the scored siblings of `groups` for the step that starts from `version`."""
    sequences = [(i, r) for i, group in enumerate(groups) for r in group.rollouts if r.trainable]
    rollouts = [r for _, r in sequences]
    batch = _pack(
        token_ids=[np.concatenate([r.prompt_ids, r.response.token_ids]) for r in rollouts],
        masks=[_with_prompt(r, r.loss_mask, False) for r in rollouts],
        logprobs=[_with_prompt(r, r.response.logprobs, 0.0) for r in rollouts],
        versions=[_with_prompt(r, r.response.versions, -1) for r in rollouts],
        rewards=[_reward(r) for r in rollouts],
        group_ids=[i for i, _ in sequences],
        version=version,
    )
    tiers = tuple(sorted(_isolation([r for group in groups for r in group.rollouts])))
    return _info(tuple(g.key for g in groups), batch, _metrics(groups, batch, version), tiers), batch


def supervised_batch(examples: Sequence[SupervisedExample]) -> TrainingBatch:
    """Pack demonstrations: the mask is on what is to be imitated, there is no behaviour policy and no reward."""
    token_ids = [np.concatenate([e.prompt_ids, e.response_ids]) for e in examples]
    return _pack(
        token_ids=token_ids,
        masks=[np.concatenate([np.zeros(len(e.prompt_ids), np.bool_), e.loss_mask]) for e in examples],
        logprobs=[np.zeros(len(t)) for t in token_ids],
        versions=[np.full(len(t), -1) for t in token_ids],
        rewards=[0.0] * len(examples),
        group_ids=list(range(len(examples))),
        version=-1,
    )


def supervised_info(batch: TrainingBatch) -> BatchInfo:
    """The numbers of a supervised batch."""
    lengths = np.add.reduceat(batch.loss_mask, batch.starts, dtype=np.int64)
    metrics = {"response_len_mean": float(lengths.mean()), "response_len_max": float(lengths.max())}
    return _info((), batch, metrics)


def _pack(
    token_ids: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    logprobs: Sequence[np.ndarray],
    versions: Sequence[np.ndarray],
    rewards: Sequence[float],
    group_ids: Sequence[int],
    version: int,
) -> TrainingBatch:
    lengths = np.array([len(t) for t in token_ids], np.int32)
    mask = np.concatenate(masks).astype(np.bool_)
    assert not mask[np.cumsum(lengths) - lengths].any(), "the first token of a sequence has no log-prob to train"
    return TrainingBatch(
        token_ids=np.concatenate(token_ids).astype(np.int32),
        loss_mask=mask,
        behaviour_logprobs=np.where(mask, np.concatenate(logprobs), 0.0).astype(np.float32),
        versions=np.where(mask, np.concatenate(versions), -1).astype(np.int32),
        lengths=lengths,
        rewards=np.array(rewards, np.float32),
        group_ids=np.array(group_ids, np.int32),
        version=version,
    )


def _with_prompt(rollout: Rollout, response_values: np.ndarray, fill: float) -> np.ndarray:
    return np.concatenate([np.full(len(rollout.prompt_ids), fill, response_values.dtype), response_values])


def _reward(rollout: Rollout) -> float:
    assert rollout.verdict.reward is not None
    return rollout.verdict.reward


def _metrics(groups: Sequence[RolloutGroup], batch: TrainingBatch, version: int) -> dict[str, float]:
    siblings = [r for group in groups for r in group.rollouts]
    scored = [r for r in siblings if r.trainable]
    lengths = np.array([len(r.response) for r in scored])
    ages = version - batch.versions[batch.loss_mask]
    return {
        "reward": float(batch.rewards.mean()),
        "correct_frac": sum(r.verdict.status == "correct" for r in scored) / len(scored),
        "truncated_frac": sum(r.response.finish_reason == "length" for r in siblings) / len(siblings),
        "failed_frac": 1 - len(scored) / len(siblings),
        **{f"{kind}_frac": sum(r.verdict.status == kind for r in siblings) / len(siblings) for kind in _FAILED},
        "response_len_mean": float(lengths.mean()),
        "response_len_max": float(lengths.max()),
        "staleness_mean": float(ages.mean()) if len(ages) else 0.0,
        "staleness_max": float(ages.max()) if len(ages) else 0.0,
        **_histogram(ages),
        "verdict_ms_mean": float(np.mean([r.verdict.milliseconds for r in siblings])),
        "verdict_ms_max": max(r.verdict.milliseconds for r in siblings),
        **{f"verdict_{name}": total for name, total in _facts(siblings).items()},
        **{f"isolation_{tier}_frac": count / len(siblings) for tier, count in _isolation(siblings).items()},
    }


def _histogram(ages: np.ndarray) -> dict[str, float]:
    """Shares of trained tokens that are 0, 1, … versions old, the oldest together."""
    shares = np.bincount(np.clip(ages, 0, _OLDEST), minlength=_OLDEST + 1) / max(len(ages), 1)
    return {f"staleness_frac_{age}{'_up' * (age == _OLDEST)}": float(share) for age, share in enumerate(shares)}


def _isolation(rollouts: Sequence[Rollout]) -> Counter[str]:
    """How many answers' code ran in which tier of the sandbox."""
    return Counter(rollout.verdict.isolation for rollout in rollouts if rollout.verdict.isolation)


def _facts(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """What verifiers counted on the way, summed up; parts of the reward apart."""
    totals: dict[str, float] = {}
    for rollout in rollouts:
        for name, value in rollout.verdict.facts.items():
            totals[name] = totals.get(name, 0.0) + value
    return totals


def _info(
    keys: tuple[GroupKey, ...], batch: TrainingBatch, metrics: dict[str, float], isolation: tuple[str, ...] = ()
) -> BatchInfo:
    return BatchInfo(
        groups=keys,
        num_sequences=batch.num_sequences,
        num_tokens=len(batch.token_ids),
        num_loss_tokens=batch.num_loss_tokens,
        metrics=metrics,
        isolation=isolation,
    )
