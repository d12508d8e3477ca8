import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.losses.gspo import GSPOLoss
from trainer.losses.importance import ImportanceSampling
from trainer.losses.inputs import LossInputs
from trainer.losses.ppo import PPOLoss
from trainer.losses.reduction import Totals, token_weights

NONE = ImportanceSampling("none")


def test_the_sequence_ratio_of_the_published_example(make_inputs: Callable[..., LossInputs]) -> None:
    inputs = make_inputs([0.1, -0.1, 0.2], proximal=[0.0] * 3)
    loss, _ = GSPOLoss(0.2, 0.28, NONE)(inputs)
    assert loss.tolist() == pytest.approx([-1.0689] * 3, abs=5e-5)


def test_each_of_l_tokens_gets_one_lth_of_the_gradient(make_inputs: Callable[..., LossInputs]) -> None:
    inputs = make_inputs([0.1, -0.1, 0.2], proximal=[0.0] * 3)
    loss, _ = GSPOLoss(0.2, 0.28, NONE)(inputs)
    weights = token_weights("sequence_mean", inputs.mask, inputs.sequence_ids, 1, Totals(3, 1, 8))
    (weights * loss).sum().backward()
    assert inputs.logprobs.grad.tolist() == pytest.approx([-math.exp(0.2 / 3) / 3] * 3)


def test_clipping_takes_whole_sequences(make_inputs: Callable[..., LossInputs]) -> None:
    inputs = make_inputs([0.1, -0.1, 0.2, 0.0, -0.0001], proximal=[0.0] * 5, sequence_ids=[0, 0, 0, 1, 1])
    loss, stats = GSPOLoss(importance=NONE)(inputs)
    loss.sum().backward()
    assert stats["clip_frac"].item() == 3
    assert loss[:3].tolist() == pytest.approx([-1.0004] * 3)
    assert inputs.logprobs.grad[:3].tolist() == [0.0] * 3
    assert (inputs.logprobs.grad[3:] != 0).all()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_sequences_of_one_token_are_ppo(ragged: Callable[[int], LossInputs], seed: int) -> None:
    inputs = ragged(seed)
    total = len(inputs.mask)
    single = replace(inputs, sequence_ids=torch.arange(total), num_sequences=total)
    losses, gradients = [], []
    for term in (PPOLoss(), GSPOLoss(0.2, 0.28)):
        loss, _ = term(single)
        gradients.append(torch.autograd.grad(loss.sum(), inputs.logprobs)[0])
        losses.append(loss.detach())
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1])


def twin(inputs: LossInputs, term: GSPOLoss, logprobs: np.ndarray) -> float:
    """The paper's objective: the mean over sequences, one advantage and one ratio each."""
    mask, ids, proximal = inputs.mask.numpy(), inputs.sequence_ids.numpy(), inputs.proximal.numpy()
    objectives = []
    for sequence in range(inputs.num_sequences):
        tokens = np.flatnonzero((ids == sequence) & mask)
        if len(tokens):
            s = math.exp(np.mean(logprobs[tokens] - proximal[tokens]))
            advantage = inputs.advantages[tokens[0]].item()
            objectives.append(min(s * advantage, np.clip(s, 1 - term.clip_low, 1 + term.clip_high) * advantage))
    return -float(np.mean(objectives)) if objectives else 0.0


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_loss_and_gradient_equal_the_twins(
    ragged: Callable[[int], LossInputs], numeric_gradient: Callable[..., np.ndarray], seed: int
) -> None:
    inputs, term = ragged(seed), GSPOLoss(0.1, 0.15, NONE)
    of_sequences = torch.linspace(-1, 1, inputs.num_sequences, dtype=torch.float64) + 0.1
    inputs = replace(inputs, advantages=of_sequences[inputs.sequence_ids])
    sequences = len(inputs.sequence_ids[inputs.mask].unique())
    totals = Totals(int(inputs.mask.sum()), sequences, 8)
    weights = token_weights(term.reduction, inputs.mask, inputs.sequence_ids, inputs.num_sequences, totals)
    total = (weights * term(inputs)[0]).sum()
    total.backward()
    x = inputs.logprobs.detach().numpy()
    assert total.item() == pytest.approx(twin(inputs, term, x), abs=1e-6)
    expected = numeric_gradient(lambda moved: twin(inputs, term, moved), x)
    np.testing.assert_allclose(inputs.logprobs.grad, expected, atol=1e-6)
