import numpy as np
import pytest

from trainer.advantages import grpo_advantages


def test_sample_deviation_gives_the_value_of_common_implementations() -> None:
    np.testing.assert_allclose(
        grpo_advantages([1, 0, 0, 1], [7] * 4, True), [0.8660, -0.8660, -0.8660, 0.8660], atol=5e-5
    )
    np.testing.assert_allclose(grpo_advantages([1, 0, 0, 0], [7] * 4, True), [1.5, -0.5, -0.5, -0.5], atol=5e-5)


def test_without_deviation_it_is_dr_grpo() -> None:
    np.testing.assert_allclose(grpo_advantages([1, 0, 0, 1], [0] * 4, False), [0.5, -0.5, -0.5, 0.5])


@pytest.mark.parametrize("normalize_std", [True, False])
def test_equal_rewards_and_singletons_teach_exactly_nothing(normalize_std: bool) -> None:
    assert grpo_advantages([0.1] * 7 + [1.0], [0] * 7 + [1], normalize_std).tolist() == [0.0] * 8


def test_groups_are_found_by_id_and_not_by_position() -> None:
    mixed = grpo_advantages([1, 5, 0, 5, 0, 9, 1], [3, 8, 3, 8, 3, 1, 3], True)
    np.testing.assert_allclose(mixed, [0.8660, 0, -0.8660, 0, -0.8660, 0, 0.8660], atol=5e-5)
