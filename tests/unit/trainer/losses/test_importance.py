from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.losses.importance import ImportanceSampling, importance_weights
from trainer.losses.inputs import LossInputs
from trainer.losses.options import ImportanceMode

MODES: tuple[ImportanceMode, ...] = get_args(ImportanceMode)


def weigh(
    ratios: list[float],
    sampling: ImportanceSampling,
    sequence_ids: list[int] | None = None,
    mask: list[bool] | None = None,
) -> tuple[list[float], dict[str, float]]:
    """Weights and statistics for given ratios."""
    log_ratios = torch.tensor(ratios, dtype=torch.float64).log()
    ids = torch.tensor(sequence_ids or [0] * len(ratios))
    weights, stats = importance_weights(
        log_ratios - 1.0,
        torch.full_like(log_ratios, -1.0),
        torch.tensor(mask or [True] * len(ratios)),
        ids,
        int(ids[-1]) + 1,
        sampling,
    )
    return weights.tolist(), {name: value.item() for name, value in stats.items()}


def test_truncation_caps_from_above_only() -> None:
    weights, stats = weigh([0.4, 1.0, 2.5], ImportanceSampling("tis", cap=2.0))
    assert weights == pytest.approx([0.4, 1.0, 2.0])
    assert stats["is_weight_mean"] == pytest.approx(3.4)
    assert (stats["is_clipped_frac"], stats["is_masked_frac"]) == (1, 0)


def test_icepop_drops_what_lies_outside_and_leaves_the_rest() -> None:
    weights, stats = weigh([0.4, 1.0, 2.5, 6.0], ImportanceSampling("icepop", floor=0.5, cap=5.0))
    assert weights == pytest.approx([0.0, 1.0, 2.5, 0.0])
    assert (stats["is_clipped_frac"], stats["is_masked_frac"]) == (0, 2)


def test_without_correction_every_weight_is_1() -> None:
    weights, _ = weigh([0.125, 4.0], ImportanceSampling("none"))
    assert weights == [1.0, 1.0]


def test_a_sequence_weighs_the_product_of_its_tokens_capped() -> None:
    ratios, ids = [0.5, 3.0, 2.0, 2.0], [0, 0, 1, 1]
    assert weigh(ratios, ImportanceSampling("sequence_tis", cap=2.0), ids)[0] == pytest.approx([1.5, 1.5, 2, 2])
    assert weigh(ratios, ImportanceSampling("sequence_mask", cap=2.0), ids)[0] == pytest.approx([1.5, 1.5, 0, 0])


def test_the_geometric_mean_is_the_root_of_the_product_over_loss_tokens() -> None:
    sampling = ImportanceSampling("geometric_mask", floor=0.5, cap=2.0)
    weights, stats = weigh([0.5, 2.0, 4.0, 99.0, 3.0], sampling, [0, 0, 0, 0, 1], [True, True, True, False, True])
    assert weights == pytest.approx([4 ** (1 / 3)] * 3 + [0.0, 0.0])
    assert stats["is_masked_frac"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_one_token_below_the_veto_drops_its_sequence_in_every_mode(mode: ImportanceMode) -> None:
    sampling = ImportanceSampling(mode, cap=1e4, veto=1e-3)
    weights, stats = weigh([1.0, 1e-4, 1.0], sampling, [0, 0, 1])
    assert weights == pytest.approx([0.0, 0.0, 1.0])
    assert stats["is_masked_frac"] == 2


def test_a_dropped_token_is_not_counted_as_clipped_too() -> None:
    _, stats = weigh([5.0, 1e-4, 5.0], ImportanceSampling("tis", veto=1e-3), [0, 0, 1])
    assert (stats["is_clipped_frac"], stats["is_masked_frac"]) == (1, 2)


def test_a_veto_looks_at_loss_tokens_only() -> None:
    assert weigh([1.0, 1e-9], ImportanceSampling("tis", veto=1e-3), mask=[True, False])[0] == [1.0, 0.0]


def test_the_effective_sample_size_follows_from_the_totals() -> None:
    _, stats = weigh([1.0, 1.0, 2.0, 0.0001], ImportanceSampling("icepop", floor=0.5, cap=3.0))
    n = 4
    mean, square_mean = stats["is_weight_mean"] / n, stats["is_weight_square_mean"] / n
    assert n * mean**2 / square_mean == pytest.approx(4.0**2 / 6.0)


def test_weights_have_no_gradient_and_stay_finite() -> None:
    policy = torch.tensor([-300.0] * 6 + [0.0] * 6, requires_grad=True)
    behaviour = torch.tensor([0.0] * 6 + [-300.0] * 6)
    mask, ids = torch.ones(12, dtype=torch.bool), torch.tensor([0] * 6 + [1] * 6)
    for mode in MODES:
        sampling = ImportanceSampling(mode, cap=1e30)
        weights, stats = importance_weights(policy, behaviour, mask, ids, 2, sampling)
        assert not weights.requires_grad
        assert all(torch.isfinite(x).all() for x in (weights, *stats.values()))


def twin(inputs: LossInputs, sampling: ImportanceSampling) -> np.ndarray:
    ratio = np.exp((inputs.proximal - inputs.behaviour).numpy())
    mask, ids = inputs.mask.numpy(), inputs.sequence_ids.numpy()
    weights = np.zeros(len(ratio))
    for sequence in range(inputs.num_sequences):
        tokens = np.flatnonzero((ids == sequence) & mask)
        for t in tokens:
            product = np.prod(ratio[tokens])
            weight = {
                "none": 1.0,
                "tis": ratio[t],
                "icepop": ratio[t],
                "sequence_tis": product,
                "sequence_mask": product,
                "geometric_mask": product ** (1 / len(tokens)),
            }[sampling.mode]
            if sampling.mode in ("tis", "sequence_tis"):
                weight = min(weight, sampling.cap)
            elif sampling.mode != "none" and not sampling.floor <= weight <= sampling.cap:
                weight = 0.0
            weights[t] = 0.0 if ratio[tokens].min() < sampling.veto else weight
    return weights


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), cap=st.floats(1, 3), floor=st.floats(0, 1), veto=st.sampled_from([0.0, 0.3, 0.6]))
def test_weights_equal_the_twins(
    ragged: Callable[[int], LossInputs], mode: ImportanceMode, seed: int, cap: float, floor: float, veto: float
) -> None:
    inputs, sampling = ragged(seed), ImportanceSampling(mode, cap, floor, veto)
    weights, stats = importance_weights(
        inputs.proximal, inputs.behaviour, inputs.mask, inputs.sequence_ids, inputs.num_sequences, sampling
    )
    expected = twin(inputs, sampling)
    np.testing.assert_allclose(weights, expected, atol=1e-12)
    assert stats["is_weight_mean"].item() == pytest.approx(expected.sum())
    assert stats["is_masked_frac"].item() == ((expected == 0) & inputs.mask.numpy()).sum()
