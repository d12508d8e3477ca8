from collections.abc import Callable

import numpy as np
import pytest

from trainer.advantages.inputs import AdvantageInputs

InputsMaker = Callable[..., AdvantageInputs]


@pytest.fixture(scope="session")
def make_inputs() -> InputsMaker:
    """Sequences of one prompt token and one loss token, all of one group, unless told otherwise."""

    def make(
        rewards: list[float],
        group_ids: list[int] | None = None,
        lengths: list[int] | None = None,
        mask: list[bool] | None = None,
        values: list[float] | None = None,
        kl: list[float] | None = None,
    ) -> AdvantageInputs:
        return AdvantageInputs(
            np.array(rewards, np.float32),
            np.array(group_ids or [7] * len(rewards), np.int32),
            np.array(lengths or [2] * len(rewards), np.int32),
            np.array(mask or [False, True] * len(rewards)),
            None if values is None else np.array(values, np.float32),
            None if kl is None else np.array(kl, np.float32),
        )

    return make


@pytest.fixture(scope="session")
def ragged(make_inputs: InputsMaker) -> Callable[[int], AdvantageInputs]:
    """A few groups, interleaved, of sequences with holes in the mask; some have no token on it."""

    def make(seed: int) -> AdvantageInputs:
        rng = np.random.default_rng(seed)
        sequences = rng.integers(1, 9)
        lengths = rng.integers(1, 7, sequences)
        total = int(lengths.sum())
        return make_inputs(
            rng.choice([0.0, 0.1, 1.0], sequences).tolist(),
            rng.integers(0, 3, sequences).tolist(),
            lengths.tolist(),
            (rng.random(total) < 0.6).tolist(),
            rng.normal(0, 1, total).tolist(),
            rng.uniform(0, 0.2, total).tolist(),
        )

    return make
