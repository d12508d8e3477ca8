"""What every advantage promises."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.advantages.catalogue import ADVANTAGES
from trainer.advantages.gae import GAE
from trainer.advantages.inputs import AdvantageFn, AdvantageInputs

every_advantage = pytest.mark.parametrize("fn", [*ADVANTAGES.values(), GAE(0.99, 0.9)])


def reordered(inputs: AdvantageInputs, order: list[int]) -> tuple[AdvantageInputs, np.ndarray]:
    """The sequences in another order, and where each of its tokens was."""
    ends = np.cumsum(inputs.lengths)
    tokens = np.concatenate([np.arange(ends[s] - inputs.lengths[s], ends[s]) for s in order])
    moved = AdvantageInputs(
        inputs.rewards[order],
        inputs.group_ids[order],
        inputs.lengths[order],
        inputs.mask[tokens],
        inputs.values[tokens],
        inputs.kl[tokens],
    )
    return moved, tokens


@every_advantage
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_the_order_of_sequences_plays_no_part(
    ragged: Callable[[int], AdvantageInputs], fn: AdvantageFn, seed: int, data: st.DataObject
) -> None:
    inputs = ragged(seed)
    moved, tokens = reordered(inputs, data.draw(st.permutations(range(len(inputs.lengths)))))
    np.testing.assert_allclose(fn(moved).tokens, fn(inputs).tokens[tokens], rtol=1e-5, atol=1e-6)


@every_advantage
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_tokens_off_the_mask_have_none_and_all_are_finite_single_precision(
    ragged: Callable[[int], AdvantageInputs], fn: AdvantageFn, seed: int
) -> None:
    inputs = ragged(seed)
    tokens = fn(inputs).tokens
    assert tokens.dtype == np.float32
    assert np.isfinite(tokens).all()
    assert (tokens[~inputs.mask] == 0).all()


def test_advantages_and_the_options_of_losses_load_without_torch() -> None:
    code = "import sys, trainer.losses.options, trainer.advantages.catalogue; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
