from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from trainer.losses.inputs import LossInputs

InputsMaker = Callable[..., LossInputs]
Array = np.ndarray


@pytest.fixture(scope="session")
def make_inputs() -> InputsMaker:
    """Tokens of one sequence unless told otherwise, all on the mask and on-policy, in double precision."""

    def make(
        logprobs: list[float],
        behaviour: list[float] | None = None,
        proximal: list[float] | None = None,
        advantages: list[float] | None = None,
        mask: list[bool] | None = None,
        sequence_ids: list[int] | None = None,
    ) -> LossInputs:
        ids = torch.tensor(sequence_ids or [0] * len(logprobs))
        proximal_T = torch.tensor(proximal or logprobs, dtype=torch.float64)
        return LossInputs(
            logprobs=torch.tensor(logprobs, dtype=torch.float64, requires_grad=True),
            entropies=torch.ones(len(logprobs), dtype=torch.float64, requires_grad=True),
            behaviour=torch.tensor(behaviour, dtype=torch.float64) if behaviour else proximal_T,
            proximal=proximal_T,
            advantages=torch.tensor(advantages or [1.0] * len(logprobs), dtype=torch.float64),
            mask=torch.tensor(mask or [True] * len(logprobs)),
            sequence_ids=ids,
            num_sequences=int(ids[-1]) + 1,
        )

    return make


@pytest.fixture(scope="session")
def ragged(make_inputs: InputsMaker) -> Callable[[int], LossInputs]:
    """A few off-policy sequences of 1 to 6 tokens with holes in the mask; some have no token on it."""

    def make(seed: int) -> LossInputs:
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, 7, rng.integers(1, 6))
        total = int(lengths.sum())
        logprobs = rng.normal(-2, 0.5, total)
        proximal = logprobs + rng.normal(0, 0.3, total)
        inputs = make_inputs(
            logprobs.tolist(),
            (proximal + rng.normal(0, 0.4, total)).tolist(),
            proximal.tolist(),
            rng.normal(0, 1, total).tolist(),
            (rng.random(total) < 0.7).tolist(),
            np.repeat(np.arange(len(lengths)), lengths).tolist(),
        )
        return replace(
            inputs,
            entropies=torch.tensor(rng.uniform(0, 3, total), requires_grad=True),
            reference=torch.tensor(logprobs + rng.normal(0, 0.5, total)),
            values=torch.tensor(rng.normal(0, 1, total), requires_grad=True),
            old_values=torch.tensor(rng.normal(0, 1, total)),
            returns=torch.tensor(rng.normal(0, 1, total)),
        )

    return make


@pytest.fixture(scope="session")
def numeric_gradient() -> Callable[[Callable[[Array], float], Array], Array]:
    """Central differences of a function of a vector."""

    def gradient(f: Callable[[Array], float], x: Array) -> Array:
        steps = 1e-6 * np.eye(len(x))
        return np.array([(f(x + step) - f(x - step)) / 2e-6 for step in steps])

    return gradient
