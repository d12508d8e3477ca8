from collections.abc import Callable
from dataclasses import replace

import torch

from trainer.losses.entropy import EntropyLoss
from trainer.losses.inputs import LossInputs


def test_descent_on_the_loss_raises_the_entropy(make_inputs: Callable[..., LossInputs]) -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]], requires_grad=True)
    inputs = make_inputs([-1.0, -1.0], mask=[True, False])

    def entropies() -> torch.Tensor:
        return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)

    before = entropies().detach()
    loss, _ = EntropyLoss()(replace(inputs, entropies=entropies()))
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.tensor([-1.0, 0.0]) * before)
    with torch.no_grad():
        logits -= logits.grad
    assert entropies()[0] > before[0]
    assert entropies()[1] == before[1]
