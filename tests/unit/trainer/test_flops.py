import pytest
from transformers import Qwen3Config

from trainer.flops import Work, peak_flops

CONFIG = Qwen3Config(hidden_size=1024, num_hidden_layers=4, num_attention_heads=8, head_dim=128, vocab_size=1000)


def test_a_token_costs_six_times_its_parameters_and_attention_over_half_the_positions_before_it() -> None:
    work = Work.of(CONFIG, 50_000_000)
    by_hand = 6 * 50e6 * (100 + 300) + 12 * 4 * 8 * 128 * (100 * 100 / 2 + 300 * 300 / 2)
    assert work.of_batch([100, 300]) == pytest.approx(by_hand)


def test_frozen_parameters_have_no_gradient_of_their_own() -> None:
    assert Work.of(CONFIG, 50_000_000, frozen=True).per_token == 4 * 50e6


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_gpu_is_known_by_its_whole_name(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak
