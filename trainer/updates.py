"""Optimizer updates from training batches: micro-batches forward and backward, one reduction, one AdamW step.

Every term of the loss is normalised by *global* counts, so neither the micro-batch split nor the number of ranks
changes it. Nothing here knows where batches come from or how weights leave.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rollout.records import FloatArray, TrainingBatch
from trainer.batching import MicroBatch, concatenate, micro_batches
from trainer.columns import Columns
from trainer.fsdp import Scores, ShardedPolicy
from trainer.losses.inputs import LossInputs
from trainer.losses.kl import k3
from trainer.losses.reduction import Totals, token_weights
from trainer.objectives import Objective
from trainer.optim import ShardedAdamW
from trainer.reference import Reference
from trainer.sums import Sums, means


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """One update's share of this rank, with everything that is computed before the first update of the batch."""

    batch: TrainingBatch
    micros: list[MicroBatch]
    columns: Columns
    totals: tuple[Totals, ...]
    """Per term of the objective."""


@dataclass(slots=True)
class Trainer:
    """One rank's training of a policy: holds what every update of a run shares."""

    policy: ShardedPolicy
    temperature: float
    max_tokens: int
    """Tokens of a micro-batch."""
    max_grad_norm: float
    linear_cost: float = math.inf
    """See `trainer.packing.plan_micro_batches`."""
    reference: Reference | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each part of the last call of `train` took."""

    def train(self, parts: Sequence[TrainingBatch], objective: Objective, optimizer: ShardedAdamW) -> dict[str, float]:
        """One update per part; token-weighted means of the metrics over them.

        Clipping is against the policy before the first update: with one part that is the policy itself, with several
        its log-probs are computed beforehand. An update whose loss or gradient is not finite is left out on every
        rank: `skipped` is the share of those, and their other metrics are too.
        """
        self.seconds = {}
        with self._timed("evaluate_s"):
            several = len(parts) > 1 and objective.mix is None
            prepared = self._with_advantages([self._prepare(part, objective, several) for part in parts], objective)
        done = [totals for part in prepared if (totals := self._update(part, objective, optimizer))]
        metrics = means(done) | {"lr": optimizer.lr} if done else {}
        optimizer.finish_batch()
        return metrics | {"skipped": 1 - len(done) / len(parts)} | self.seconds

    def nll(self, batch: TrainingBatch) -> float:
        """Mean negative log-likelihood of the loss tokens, over all ranks, without an update."""
        policy, sums = self.policy, Sums()
        sums.add("nll", torch.zeros((), device=policy.device))
        for share in micro_batches(batch, policy.rank, policy.world_size, self.max_tokens, self.linear_cost):
            micro = share.to(policy.device)
            sums.add("nll", -(policy.evaluate(micro, self.temperature).logprobs * micro.mask).sum())
        return sums.over_ranks()["nll"] / batch.num_loss_tokens

    def _prepare(self, batch: TrainingBatch, objective: Objective, recompute: bool) -> Prepared:
        if not batch.num_loss_tokens:
            raise ValueError(f"a batch must have loss tokens, got none in {batch.num_sequences} sequences")
        policy = self.policy
        shares = micro_batches(batch, policy.rank, policy.world_size, self.max_tokens, self.linear_cost)
        micros = [micro.to(policy.device) for micro in shares]
        columns = Columns.of(batch, objective, policy.device)
        if recompute or objective.reward_kl or "values" in objective.needs:
            columns = columns.scored(micros, [policy.evaluate(m, self.temperature) for m in micros])
        if "reference" in objective.needs:
            assert self.reference is not None
            with self.reference.in_place_of(policy.shards()):
                columns = columns.compared(micros, [policy.evaluate(m, self.temperature) for m in micros])
        totals = tuple(term.totals(batch, objective.max_tokens) for term in objective.terms)
        return Prepared(batch, micros, columns, totals)

    def _with_advantages(self, parts: Sequence[Prepared], objective: Objective) -> list[Prepared]:
        """The parts, with advantages that were formed over all of them together."""
        values = log_ratios = None
        if "values" in objective.needs:
            values = np.concatenate([_over_ranks(part.columns.old_values) for part in parts])
        if objective.reward_kl:
            log_ratios = np.concatenate([_over_ranks(part.columns.log_ratios) for part in parts])
        whole = objective.advantages(concatenate([part.batch for part in parts]), values, log_ratios)
        ends = np.cumsum([len(part.batch.token_ids) for part in parts])[:-1]
        returns = [None] * len(parts) if whole.returns is None else np.split(whole.returns, ends)
        return [
            replace(part, columns=part.columns.with_advantages(tokens, goal))
            for part, tokens, goal in zip(parts, np.split(whole.tokens, ends), returns, strict=True)
        ]

    def _update(self, part: Prepared, objective: Objective, optimizer: ShardedAdamW) -> dict[str, float] | None:
        """One update: its statistics summed over all ranks, or None when it was left out."""
        with self._timed("forward_backward_s"):
            sums = self._accumulate(part, objective)
        with self._timed("optimizer_s"):
            gradients = self.policy.gradients()
            square = torch.stack(torch._foreach_norm(gradients)).double().square().sum()
            sums.add("grad_norm", square.to(self.policy.device))
            totals = sums.over_ranks()
            if not all(math.isfinite(totals[name]) for name in ("loss", "grad_norm")):
                return None
            totals["grad_norm"] = math.sqrt(totals["grad_norm"])
            torch._foreach_mul_(gradients, min(1.0, self.max_grad_norm / (totals["grad_norm"] + 1e-6)))
            optimizer.update(gradients)
        return totals | {"tokens": part.batch.num_loss_tokens}

    def _accumulate(self, part: Prepared, objective: Objective) -> Sums:
        """Forward and backward over the micro-batches; leaves the gradient of the objective."""
        sums, micros = Sums(), part.micros
        for i, micro in enumerate(micros):
            self.policy.reduce_next(last=i == len(micros) - 1)
            scores = self.policy(micro, self.temperature, objective.entropy)
            inputs = part.columns.inputs(micro, scores, objective)
            total = self._losses(part, objective, micro, inputs, sums)
            (total * self.policy.world_size).backward()  # FSDP averages over ranks; this makes it a sum
            sums.add("loss", total)
            if objective.advantage is not None:
                self._watch(part, micro, scores, inputs, sums)
        return sums

    def _watch(self, part: Prepared, micro: MicroBatch, scores: Scores, inputs: LossInputs, sums: Sums) -> None:
        """Statistics of a policy that samples: entropy, and how far the engine that sampled is from the learner."""
        sums.add("entropy", (scores.entropies * micro.mask).sum())
        before = scores.logprobs.detach() if part.columns.proximal is None else part.columns.proximal[micro.index]
        sampled = micro.mask & part.columns.sampled[micro.index]
        log_ratios = (before - inputs.behaviour).masked_fill(~sampled, 0.0)
        distances = log_ratios.abs()
        sums.add("mismatch_kl", k3(log_ratios).sum())
        sums.add("mismatch_abs", distances.sum())
        sums.add("mismatch_max", distances.max())
        fresh = micro.mask & part.columns.fresh[micro.index]
        sums.add("fresh", fresh.sum())
        sums.add("fresh_mismatch_abs", (distances * fresh).sum())
        sums.add("fresh_mismatch_max", (distances * fresh).max())

    def _losses(
        self, part: Prepared, objective: Objective, micro: MicroBatch, inputs: LossInputs, sums: Sums
    ) -> Tensor:
        """This micro-batch's summand of the objective."""
        total = torch.zeros((), device=self.policy.device)
        for number, weighted in enumerate(objective.terms):
            given = part.columns.for_term(number, inputs, micro)
            losses, stats = weighted.term(given)
            weights = token_weights(
                weighted.term.reduction, given.mask, given.sequence_ids, given.num_sequences, part.totals[number]
            )
            loss = (weights * losses).sum()
            total = total + weighted.weight * loss
            sums.add(f"loss_{weighted.name}", loss)
            for name, value in stats.items():
                sums.add(name, value)
        return total

    def _timed(self, name: str) -> "_Lap":
        return _Lap(self.seconds, name, self.policy.device)


@dataclass(slots=True)
class _Lap:
    """Adds the seconds of a block to a dict; waits for the GPU, else they would be booked where it is waited for."""

    seconds: dict[str, float]
    name: str
    device: torch.device
    began: float = 0.0

    def __enter__(self) -> None:
        self.began = self._now()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + self._now() - self.began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _over_ranks(column: Tensor | None) -> FloatArray:
    """[N] the tokens of all ranks, of which each filled in its own."""
    assert column is not None
    dist.all_reduce(column)
    return np.asarray(column.cpu().numpy(), np.float32)
