from collections.abc import Callable

from trainer.losses.inputs import LossInputs
from trainer.losses.nll import NLLLoss


def test_only_tokens_on_the_mask_are_learnt(make_inputs: Callable[..., LossInputs]) -> None:
    inputs = make_inputs([-1.0, -2.0], mask=[False, True], advantages=[7.0, 7.0], behaviour=[-9.0, -9.0])
    loss, stats = NLLLoss()(inputs)
    loss.sum().backward()
    assert loss.tolist() == [0.0, 2.0]
    assert inputs.logprobs.grad.tolist() == [0.0, -1.0]
    assert stats == {}
