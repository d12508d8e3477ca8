"""What the loss knows of each token of a batch besides the policy's own scores: arrays [N] on the policy's device."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rollout.records import BoolArray, FloatArray, TrainingBatch
from trainer.batching import MicroBatch
from trainer.fsdp import Scores
from trainer.losses.inputs import LossInputs
from trainer.objectives import Objective


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """One value per token; a rank fills in what it computes for its own tokens only."""

    behaviour: Tensor
    """[N] log-probs of the weights that sampled."""
    advantages: Tensor
    """[N]"""
    sampled: Tensor
    """[N] bool: tokens that a policy sampled, and not demonstrations."""
    fresh: Tensor
    """[N] bool: of answers that began with the weights about to be trained, where only arithmetic differs."""
    selected: tuple[Tensor, ...]
    """[N] bool per term of the objective: the tokens that it trains."""
    proximal: Tensor | None = None
    """[N] recomputed before the first update; None where they are the policy's own, or a mix."""
    reference: Tensor | None = None
    """[N] log-probs of the reference."""
    old_values: Tensor | None = None
    """[N] the critic's, before the first update."""
    returns: Tensor | None = None
    """[N] what the critic is to learn."""

    @classmethod
    def of(cls, batch: TrainingBatch, objective: Objective, device: torch.device) -> "Columns":
        """What the batch itself says; advantages are 0 for now."""
        return cls(
            torch.from_numpy(batch.behaviour_logprobs).to(device),
            torch.zeros(len(batch.token_ids), device=device),
            torch.from_numpy(batch.versions >= 0).to(device),
            torch.from_numpy(_fresh(batch)).to(device),
            tuple(torch.from_numpy(term.selects(batch)).to(device) for term in objective.terms),
        )

    @property
    def log_ratios(self) -> Tensor:
        """[N] log-prob before the first update minus that of the reference."""
        assert self.proximal is not None
        assert self.reference is not None
        return self.proximal - self.reference

    def with_advantages(self, tokens: FloatArray, returns: FloatArray | None) -> "Columns":
        """With advantages [N], and where there is a critic its targets [N]."""
        device = self.behaviour.device
        goal = None if returns is None else torch.from_numpy(returns).to(device)
        return replace(self, advantages=torch.from_numpy(tokens).to(device), returns=goal)

    def scored(self, micros: Sequence[MicroBatch], scores: Sequence[Scores]) -> "Columns":
        """With the proximal log-probs and the values that the policy has before the first update."""
        old_values = None
        if scores[0].values is not None:
            old_values = self._spread(micros, [s.values for s in scores if s.values is not None])
        return replace(self, proximal=self._spread(micros, [s.logprobs for s in scores]), old_values=old_values)

    def compared(self, micros: Sequence[MicroBatch], scores: Sequence[Scores]) -> "Columns":
        """With the reference's log-probs."""
        return replace(self, reference=self._spread(micros, [s.logprobs for s in scores]))

    def _spread(self, micros: Sequence[MicroBatch], values: Sequence[Tensor]) -> Tensor:
        """[N] from [n] per micro-batch; 0 elsewhere."""
        column = torch.zeros_like(self.behaviour)
        for micro, value in zip(micros, values, strict=True):
            column[micro.index] = value * micro.mask
        return column

    def inputs(self, micro: MicroBatch, scores: Scores, objective: Objective) -> LossInputs:
        """Everything about the n tokens of a micro-batch; the mask is that of no term yet."""
        behaviour = self.behaviour[micro.index]
        if objective.mix is not None:
            proximal = objective.mix(scores.logprobs, behaviour)
        else:
            proximal = scores.logprobs.detach() if self.proximal is None else self.proximal[micro.index]
        optional = {name: getattr(self, name) for name in ("reference", "old_values", "returns")}
        return LossInputs(
            scores.logprobs,
            scores.entropies,
            behaviour,
            proximal,
            self.advantages[micro.index],
            micro.mask,
            micro.sequence_ids,
            micro.num_sequences,
            values=scores.values,
            **{name: None if column is None else column[micro.index] for name, column in optional.items()},
        )

    def for_term(self, number: int, inputs: LossInputs, micro: MicroBatch) -> LossInputs:
        """The inputs with the mask of the objective's term of that number."""
        return replace(inputs, mask=micro.mask & self.selected[number][micro.index])


def _fresh(batch: TrainingBatch) -> BoolArray:
    """[N] tokens of this version in answers that began with it: before others, engines keep the KV of older weights."""
    sampled = batch.versions >= 0
    oldest_S = np.minimum.reduceat(np.where(sampled, batch.versions, np.iinfo(np.int32).max), batch.starts)
    return sampled & (batch.versions == batch.version) & np.repeat(oldest_S == batch.version, batch.lengths)
