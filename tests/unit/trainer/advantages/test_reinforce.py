from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.advantages.inputs import AdvantageFn, AdvantageInputs
from trainer.advantages.reinforce import lite_ppo, reinforce, reinforce_pp, reinforce_pp_baseline

WHITENED = (reinforce_pp, reinforce_pp_baseline)


def test_plain_reinforce_hands_the_reward_to_every_loss_token(make_inputs: Callable[..., AdvantageInputs]) -> None:
    inputs = make_inputs([1, -0.5], lengths=[3, 2], mask=[False, True, True, False, True])
    assert reinforce(inputs).tokens.tolist() == [0, 1, 1, 0, -0.5]


def test_rewards_are_whitened_over_tokens_and_not_over_sequences(make_inputs: Callable[..., AdvantageInputs]) -> None:
    inputs = make_inputs([1, 0], lengths=[1, 3], mask=[True] * 4)
    assert reinforce_pp(inputs).tokens.tolist() == pytest.approx([3**0.5] + [-(3**-0.5)] * 3)


def test_kl_counts_from_its_own_token_on_backwards(make_inputs: Callable[..., AdvantageInputs]) -> None:
    inputs = make_inputs([1], lengths=[3], mask=[True] * 3, kl=[0.0, 0.0, 0.5])
    with_later_kl = reinforce_pp(inputs).tokens
    assert with_later_kl.tolist() == [0, 0, 0]  # all three returns are 0.5
    early = make_inputs([1], lengths=[3], mask=[True] * 3, kl=[0.5, 0.0, 0.0])
    assert reinforce_pp(early).tokens.tolist() == pytest.approx([-(2**0.5), 2**-0.5, 2**-0.5])


def test_the_baseline_takes_the_difficulty_of_prompts_away(make_inputs: Callable[..., AdvantageInputs]) -> None:
    inputs = make_inputs([1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1])
    assert reinforce_pp_baseline(inputs).tokens.tolist() == [0.0] * 12
    assert np.abs(reinforce_pp(inputs).tokens[1::2]).tolist() == pytest.approx([1.0] * 6)


def test_lite_ppo_centres_by_group_and_scales_by_batch(make_inputs: Callable[..., AdvantageInputs]) -> None:
    inputs = make_inputs([1, 0, 1, 1, 0, 0], [0, 0, 1, 1, 2, 2])
    deviation = 0.3**0.5
    expected = [0.5 / deviation, -0.5 / deviation, 0, 0, 0, 0]
    assert lite_ppo(inputs).tokens[1::2].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("fn", [reinforce_pp, reinforce_pp_baseline, lite_ppo])
@pytest.mark.parametrize("sequences", [1, 7])
def test_equal_rewards_teach_exactly_nothing(
    make_inputs: Callable[..., AdvantageInputs], fn: AdvantageFn, sequences: int
) -> None:
    assert fn(make_inputs([0.1] * sequences)).tokens.tolist() == [0.0] * 2 * sequences


@pytest.mark.parametrize("fn", [reinforce, reinforce_pp, reinforce_pp_baseline, lite_ppo])
def test_a_batch_without_loss_tokens_has_no_advantages(
    make_inputs: Callable[..., AdvantageInputs], fn: AdvantageFn
) -> None:
    assert fn(make_inputs([1, 0], mask=[False] * 4)).tokens.tolist() == [0.0] * 4


def twin(fn: AdvantageFn, inputs: AdvantageInputs) -> np.ndarray:
    rewards = inputs.rewards.astype(np.float64)
    centred = np.array(
        [r - rewards[inputs.group_ids == g].mean() for r, g in zip(rewards, inputs.group_ids, strict=True)]
    )
    if fn is lite_ppo:
        deviation = rewards.std(ddof=1) if len(rewards) > 1 else 1.0
        return np.repeat(centred / (deviation or 1.0), inputs.lengths) * inputs.mask
    tokens = np.zeros(len(inputs.mask))
    ends = np.cumsum(inputs.lengths)
    for s, (start, end) in enumerate(zip(ends - inputs.lengths, ends, strict=True)):
        for t in range(start, end):
            if fn is reinforce_pp:
                later = range(t, end)
                tokens[t] = rewards[s] - sum(inputs.kl[u] for u in later if inputs.mask[u])
            else:
                tokens[t] = centred[s]
    kept = tokens[inputs.mask]
    if not len(kept) or np.ptp(kept) < 1e-9:
        return np.zeros_like(tokens)
    return (tokens - kept.mean()) / kept.std() * inputs.mask


@pytest.mark.parametrize("fn", [*WHITENED, lite_ppo])
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_advantages_equal_the_twins(ragged: Callable[[int], AdvantageInputs], fn: AdvantageFn, seed: int) -> None:
    inputs = ragged(seed)
    np.testing.assert_allclose(fn(inputs).tokens, twin(fn, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fn", WHITENED)
def test_whitened_advantages_have_mean_0_and_variance_1_on_the_mask(
    ragged: Callable[[int], AdvantageInputs], fn: AdvantageFn
) -> None:
    inputs = ragged(2)
    kept = fn(inputs).tokens[inputs.mask]
    assert kept.mean() == pytest.approx(0, abs=1e-6)
    assert kept.var() == pytest.approx(1, abs=1e-5)
