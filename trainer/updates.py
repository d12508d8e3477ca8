"""Optimizer updates from training batches: micro-batches forward and backward, one reduction, one AdamW step.

The loss is the token mean over the *global* number of loss tokens, so neither the micro-batch split nor the number of
ranks changes it. Nothing here knows where batches come from or how weights leave.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rollout.records import TrainingBatch
from trainer.advantages import grpo_advantages
from trainer.batching import MicroBatch, micro_batches
from trainer.config import RLConfig
from trainer.fsdp import ShardedPolicy
from trainer.losses import dapo_loss, nll_loss
from trainer.optim import ShardedAdamW

LossFn = Callable[[Tensor, Tensor, MicroBatch], tuple[Tensor, dict[str, Tensor]]]
"""(logprobs [b, T], proximal [b, T], micro-batch) to loss per token [b, T] and statistics summed over the mask."""


@dataclass(frozen=True, slots=True)
class Objective:
    """What a phase minimises."""

    loss: LossFn
    normalize_std: bool | None = None
    """Whether advantages are divided by the group's deviation; None for an objective without advantages."""

    @classmethod
    def rl(cls, config: RLConfig) -> "Objective":
        """GRPO advantages under the DAPO loss with truncated importance sampling."""
        return cls(partial(_rl_loss, config=config), config.normalize_std)

    @classmethod
    def sft(cls) -> "Objective":
        """Negative log-likelihood."""
        return cls(_sft_loss)

    def micro_batches(self, batch: TrainingBatch, policy: ShardedPolicy, max_tokens: int) -> list[MicroBatch]:
        """This rank's share of `batch`, on the policy's device, advantages filled in."""
        advantages = np.zeros(batch.num_sequences, np.float32)
        if self.normalize_std is not None:
            advantages = grpo_advantages(batch.rewards, batch.group_ids, self.normalize_std)
        micros = micro_batches(batch, advantages, policy.rank, policy.world_size, max_tokens)
        return [micro.to(policy.device) for micro in micros]


def _rl_loss(
    logprobs: Tensor, proximal: Tensor, micro: MicroBatch, config: RLConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    return dapo_loss(
        logprobs,
        proximal,
        micro.behaviour,
        micro.advantages,
        micro.loss_mask,
        config.clip_low,
        config.clip_high,
        config.tis_cap,
    )


def _sft_loss(logprobs: Tensor, proximal: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
    return nll_loss(logprobs, micro.loss_mask), {}


@dataclass(slots=True)
class Trainer:
    """One rank's training of a policy: holds what every update of a run shares."""

    policy: ShardedPolicy
    temperature: float
    max_tokens: int
    """Tokens of a micro-batch, padding included."""
    max_grad_norm: float

    def train(self, parts: Sequence[TrainingBatch], objective: Objective, optimizer: ShardedAdamW) -> dict[str, float]:
        """One update per part; token-weighted means of the metrics over them.

        Clipping is against the policy before the first update: with one part that is the policy itself, with several
        its log-probs are computed beforehand.
        """
        micros = [objective.micro_batches(part, self.policy, self.max_tokens) for part in parts]
        proximals: list[list[Tensor] | None] = [None] * len(parts)
        if len(parts) > 1:
            proximals = [[self.policy.evaluate(m.input_ids, self.temperature) for m in part] for part in micros]
        metrics = [
            self._update(part, part_micros, proximal, objective.loss, optimizer)
            for part, part_micros, proximal in zip(parts, micros, proximals, strict=True)
        ]
        optimizer.finish_batch()
        return _combine(metrics)

    def _update(
        self,
        batch: TrainingBatch,
        micros: Sequence[MicroBatch],
        proximal: Sequence[Tensor] | None,
        loss: LossFn,
        optimizer: ShardedAdamW,
    ) -> dict[str, float]:
        tokens = batch.num_loss_tokens
        if tokens == 0:
            raise ValueError(f"a batch must have loss tokens, got none in {batch.num_sequences} sequences")
        sums = self._accumulate(micros, proximal, loss, tokens)
        gradients = self.policy.gradients()
        sums.add("grad_norm", torch.stack(torch._foreach_norm(gradients)).double().square().sum())
        totals = sums.over_ranks()
        metrics = {name: total if name.endswith("_max") else total / tokens for name, total in totals.items()}
        metrics["grad_norm"] = math.sqrt(totals["grad_norm"])
        for name in ("loss", "grad_norm"):
            if not math.isfinite(metrics[name]):
                raise FloatingPointError(
                    f"{name} is {metrics[name]} at batch {optimizer.steps_done} of the phase ({tokens} tokens); the "
                    "weights were not changed: lower the learning rate or go back to the last checkpoint"
                )
        torch._foreach_mul_(gradients, min(1.0, self.max_grad_norm / (metrics["grad_norm"] + 1e-6)))
        optimizer.update(gradients)
        return metrics | {"tokens": tokens, "lr": optimizer.lr}

    def _accumulate(
        self, micros: Sequence[MicroBatch], proximal: Sequence[Tensor] | None, loss: LossFn, tokens: int
    ) -> "_Sums":
        """Forward and backward over the micro-batches; leaves the gradient of the global token mean."""
        sums = _Sums()
        for i, micro in enumerate(micros):
            self.policy.reduce_next(last=i == len(micros) - 1)
            logprobs, entropies = self.policy(micro.input_ids, self.temperature)
            old = logprobs.detach() if proximal is None else proximal[i]
            token_losses, stats = loss(logprobs, old, micro)
            total = token_losses.sum()
            (total * (self.policy.world_size / tokens)).backward()  # FSDP averages over ranks; this makes it a sum
            for name, value in {"loss": total, "entropy": (entropies * micro.loss_mask).sum(), **stats}.items():
                sums.add(name, value)
        return sums


@dataclass(slots=True)
class _Sums:
    """Statistics of one rank, added up (or the largest taken, for names that end in `_max`)."""

    values: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, value: Tensor) -> None:
        value = value.detach().double()
        if name in self.values:
            value = torch.maximum(self.values[name], value) if name.endswith("_max") else self.values[name] + value
        self.values[name] = value

    def over_ranks(self) -> dict[str, float]:
        """The same over all ranks, with a single collective."""
        mine = torch.stack(list(self.values.values()))
        ranks = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(ranks, mine)
        every = torch.stack(ranks)
        sums, largest = every.sum(0).tolist(), every.amax(0).tolist()
        return {n: largest[i] if n.endswith("_max") else sums[i] for i, n in enumerate(self.values)}


def _combine(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Token-weighted means over minibatches; `tokens` is their sum and `*_max` the largest."""
    tokens = sum(part["tokens"] for part in parts)
    combined = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if name.endswith("_max"):
            combined[name] = max(values)
        else:
            combined[name] = sum(v * part["tokens"] for v, part in zip(values, parts, strict=True)) / tokens
    return combined | {"tokens": float(tokens)}
