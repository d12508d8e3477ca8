"""What a phase minimises: a weighted sum of loss terms, and the advantages that they use."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from torch import Tensor

from rollout.records import BoolArray, FloatArray, TrainingBatch
from trainer.advantages.catalogue import ADVANTAGE_NAMES, ADVANTAGES
from trainer.advantages.gae import GAE
from trainer.advantages.inputs import AdvantageFn, AdvantageInputs, Advantages
from trainer.advantages.overlong import overlong_punishment
from trainer.config import RLConfig
from trainer.logprobs import Entropy
from trainer.losses.cispo import CISPOLoss
from trainer.losses.entropy import EntropyLoss
from trainer.losses.gspo import GSPOLoss
from trainer.losses.importance import ImportanceSampling
from trainer.losses.inputs import LossTerm
from trainer.losses.kl import KLLoss
from trainer.losses.nll import NLLLoss
from trainer.losses.options import LOSS_NAMES, Need
from trainer.losses.ppo import PPOLoss
from trainer.losses.proximal import linear_proximal, loglinear_proximal
from trainer.losses.reduction import Totals
from trainer.losses.reinforce import ReinforceLoss
from trainer.losses.value import ValueLoss
from verifiers.plugin import by_path

Tokens = Literal["all", "sampled", "demonstrated"]
"""Which loss tokens a term trains: those a policy sampled (they have a version), demonstrations, or both."""


@dataclass(frozen=True, slots=True)
class WeightedTerm:
    """One summand, normalised over its own tokens."""

    name: str
    """Of its metric, `loss_<name>`."""
    term: LossTerm
    weight: float = 1.0
    tokens: Tokens = "sampled"

    def selects(self, batch: TrainingBatch) -> BoolArray:
        """[N] the loss tokens that it trains."""
        if self.tokens == "all":
            return batch.loss_mask
        return batch.loss_mask & ((batch.versions >= 0) == (self.tokens == "sampled"))

    def totals(self, batch: TrainingBatch, max_tokens: int) -> Totals:
        """What its losses are normalised by: counts over the whole batch."""
        per_sequence = np.add.reduceat(self.selects(batch), batch.starts, dtype=np.int64)
        return Totals(int(per_sequence.sum()), int(np.count_nonzero(per_sequence)), max_tokens)


@dataclass(frozen=True, slots=True)
class Objective:
    """The terms, and what is computed for them before the first update of a batch."""

    terms: tuple[WeightedTerm, ...]
    advantage: AdvantageFn | None = None
    """None for an objective without rewards."""
    mix: partial[Tensor] | None = None
    """(logprobs, behaviour) to proximal log-probs [n]; None recomputes them, which one update per batch need not."""
    reward_kl: float = 0.0
    """Coefficient of the KL to the reference that is taken off the rewards (k1)."""
    max_tokens: int = 1
    """Longest response, in tokens."""
    overlong_tokens: int = 0
    needs: frozenset[Need] = field(init=False)
    """What any of the terms needs, or the rewards do."""

    def __post_init__(self) -> None:
        needs: set[Need] = {need for weighted in self.terms for need in weighted.term.needs}
        if self.reward_kl:
            needs.add("reference")
        object.__setattr__(self, "needs", frozenset(needs))

    @property
    def entropy(self) -> Entropy:
        """What it asks about entropies; RL watches them, demonstrations it takes as they are."""
        if "entropy_gradient" in self.needs:
            return "gradient"
        return "none" if self.advantage is None else "value"

    def advantages(self, batch: TrainingBatch, values: FloatArray | None, log_ratios: FloatArray | None) -> Advantages:
        """Advantages [N] of a batch.

        Args:
            batch: S sequences.
            values: [N] the critic's, if there is one.
            log_ratios: [N] log-prob under the policy minus that under the reference, with `reward_kl`.
        """
        if self.advantage is None:
            return Advantages(np.zeros(len(batch.token_ids), np.float32))
        kl = None if log_ratios is None else self.reward_kl * log_ratios
        inputs = AdvantageInputs(batch.rewards, batch.group_ids, batch.lengths, batch.loss_mask, values, kl)
        if self.overlong_tokens:
            punishment = overlong_punishment(inputs.loss_lengths, self.max_tokens, self.overlong_tokens)
            shaped = batch.rewards + punishment
            inputs = AdvantageInputs(shaped, batch.group_ids, batch.lengths, batch.loss_mask, values, kl)
        return self.advantage(inputs)


def rl_objective(config: RLConfig, max_tokens: int) -> Objective:
    """The objective of RL phases; `max_tokens` is the longest response.

    Raises:
        UnknownName: For an advantage or loss that does not exist.
    """
    terms = [WeightedTerm("policy", _policy_loss(config))]
    if config.has_critic:
        terms.append(WeightedTerm("value", ValueLoss(config.critic.clip), config.critic.weight))
    if config.kl.weight and not config.kl.in_reward:
        terms.append(WeightedTerm("kl", KLLoss(config.kl.estimator), config.kl.weight))
    if config.entropy_weight:
        terms.append(WeightedTerm("entropy", EntropyLoss(), config.entropy_weight))
    mix = {"recompute": None, "loglinear": loglinear_proximal, "linear": linear_proximal}[config.proximal]
    return Objective(
        tuple(terms),
        _advantage(config),
        partial(mix, alpha=config.proximal_alpha) if mix else None,
        config.kl.weight if config.kl.in_reward else 0.0,
        max_tokens,
        config.overlong_tokens,
    )


def sft_objective(kl_weight: float = 0.0) -> Objective:
    """The objective of supervised phases: negative log-likelihood of the answers, and of RFT the distance to its start.

    That is k2 on the tokens of the answers: it holds their likelihoods near the reference's, in both directions.
    """
    nll = WeightedTerm("nll", NLLLoss(), tokens="all")
    kl = (WeightedTerm("kl", KLLoss("k2"), kl_weight, tokens="all"),) if kl_weight else ()
    return Objective((nll, *kl))


def _policy_loss(config: RLConfig) -> LossTerm:
    bounds = config.importance
    importance = ImportanceSampling(bounds.mode, bounds.cap, bounds.floor, bounds.veto)
    match config.loss:
        case "ppo":
            return PPOLoss(config.clip_low, config.clip_high, config.dual_clip, importance, config.reduction)
        case "gspo":
            return GSPOLoss(config.clip_low, config.clip_high, importance, config.reduction)
        case "cispo":
            return CISPOLoss(config.clip_low, config.clip_high, importance, config.reduction)
        case "reinforce":
            return ReinforceLoss(importance, config.reduction)
    return _made(by_path(config.loss, "loss", LOSS_NAMES))


def _advantage(config: RLConfig) -> AdvantageFn:
    if config.has_critic:
        return GAE(config.critic.gamma, config.critic.lam)
    if config.advantage in ADVANTAGES:
        return ADVANTAGES[config.advantage]
    return _made(by_path(config.advantage, "advantage", ADVANTAGE_NAMES))


def _made(found: Any) -> Any:
    """A plug-in: the object that was named, or one of the class that was named."""
    return found() if isinstance(found, type) else found
