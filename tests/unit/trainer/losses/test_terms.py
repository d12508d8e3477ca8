"""What every loss term promises."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from trainer.losses.cispo import CISPOLoss
from trainer.losses.entropy import EntropyLoss
from trainer.losses.gspo import GSPOLoss
from trainer.losses.importance import ImportanceSampling
from trainer.losses.inputs import LossInputs, LossTerm
from trainer.losses.kl import KLLoss
from trainer.losses.nll import NLLLoss
from trainer.losses.options import Need
from trainer.losses.ppo import PPOLoss
from trainer.losses.reinforce import ReinforceLoss
from trainer.losses.value import ValueLoss

STRICT = ImportanceSampling("sequence_mask", cap=1.5, floor=0.7, veto=0.3)
TERMS: list[LossTerm] = [
    PPOLoss(),
    PPOLoss(dual_clip=3.0, importance=STRICT),
    GSPOLoss(),
    GSPOLoss(0.1, 0.1, STRICT),
    CISPOLoss(),
    ReinforceLoss(),
    NLLLoss(),
    KLLoss("k1"),
    KLLoss("k2"),
    KLLoss("k3"),
    EntropyLoss(),
    ValueLoss(),
    ValueLoss(clip=None),
]
every_term = pytest.mark.parametrize("term", TERMS, ids=repr)
LEAVES = {"entropy_gradient": "entropies", "values": "values"}
"""What a term with this need differentiates; the others differentiate log-probs."""


@pytest.fixture
def inputs(ragged: Callable[[int], LossInputs]) -> LossInputs:
    """Four sequences, the second without a token on the mask."""
    return ragged(115)


def select(inputs: LossInputs, sequences: range) -> LossInputs:
    """These sequences as a micro-batch of their own."""
    keep = (inputs.sequence_ids >= sequences.start) & (inputs.sequence_ids < sequences.stop)
    given = {f.name: getattr(inputs, f.name) for f in fields(inputs)}
    cut = {name: x[keep] for name, x in given.items() if isinstance(x, Tensor)}
    cut["sequence_ids"] = cut["sequence_ids"] - sequences.start
    return replace(inputs, num_sequences=len(sequences), **cut)


@every_term
def test_tokens_off_the_mask_have_no_loss_and_no_gradient_whatever_they_hold(
    inputs: LossInputs, term: LossTerm
) -> None:
    wild = {
        f.name: torch.where(inputs.mask, x, 1e4 * (-1) ** i).detach().requires_grad_(x.requires_grad)
        for i, f in enumerate(fields(inputs))
        if isinstance(x := getattr(inputs, f.name), Tensor) and x.is_floating_point()
    }
    wild_inputs = replace(inputs, **wild)
    (loss, stats), (wild_loss, wild_stats) = term(inputs), term(wild_inputs)
    assert (loss[~inputs.mask] == 0).all()
    torch.testing.assert_close(loss, wild_loss)
    torch.testing.assert_close(stats, wild_stats)
    leaf = next((LEAVES[need] for need in term.needs if need in LEAVES), "logprobs")
    gradient = torch.autograd.grad(wild_loss.sum(), getattr(wild_inputs, leaf))[0]
    assert (gradient[~inputs.mask] == 0).all()
    assert torch.isfinite(gradient).all()


@every_term
def test_losses_and_statistics_of_micro_batches_add_up(inputs: LossInputs, term: LossTerm) -> None:
    whole, whole_stats = term(inputs)
    parts = [term(select(inputs, part)) for part in (range(1), range(1, inputs.num_sequences))]
    torch.testing.assert_close(torch.cat([loss for loss, _ in parts]), whole)
    for name, value in whole_stats.items():
        both = torch.stack([stats[name].double() for _, stats in parts])
        torch.testing.assert_close(both.amax() if name.endswith("_max") else both.sum(), value.double())


@every_term
def test_statistics_carry_no_gradient(inputs: LossInputs, term: LossTerm) -> None:
    loss, stats = term(inputs)
    assert loss.requires_grad
    assert not any(value.requires_grad for value in stats.values())


@every_term
def test_a_micro_batch_without_tokens_has_no_loss_and_the_same_statistics(inputs: LossInputs, term: LossTerm) -> None:
    loss, stats = term(replace(inputs, mask=torch.zeros_like(inputs.mask)))
    assert (loss == 0).all()
    assert {name: value.item() for name, value in stats.items()} == dict.fromkeys(term(inputs)[1], 0.0)


@every_term
def test_terms_are_values_that_name_known_needs(term: LossTerm) -> None:
    assert term == replace(term)
    assert hash(term) == hash(replace(term))
    assert term.needs <= set(get_args(Need))


@every_term
def test_terms_do_without_what_they_do_not_need(inputs: LossInputs, term: LossTerm) -> None:
    if "reference" not in term.needs:
        inputs = replace(inputs, reference=None)
    if "values" not in term.needs:
        inputs = replace(inputs, values=None, old_values=None, returns=None)
    if "entropy_gradient" not in term.needs:
        inputs = replace(inputs, entropies=inputs.entropies.detach())
    assert torch.isfinite(term(inputs)[0]).all()
