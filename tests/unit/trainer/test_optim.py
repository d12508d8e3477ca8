import pytest
import torch

from trainer.config import OptimConfig
from trainer.optim import ShardedAdamW, learning_rate


def test_warm_up_rises_linearly_and_then_the_rate_stays() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=4)
    assert [learning_rate(config, step, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_decay_reaches_its_known_values() -> None:
    linear = OptimConfig(lr=2.0, warmup_steps=2, decay="linear")
    assert [learning_rate(linear, step, 6) for step in (2, 4, 6, 9)] == [2.0, 1.0, 0.0, 0.0]
    cosine = OptimConfig(lr=2.0, decay="cosine")
    assert [learning_rate(cosine, step, 8) for step in (0, 4)] == pytest.approx([2.0, 1.0])


def test_first_update_moves_by_the_rate_and_decays_matrices_only() -> None:
    shards = {"matrix": torch.full((2, 2), 4.0), "norm": torch.full((2,), 4.0), "nothing": torch.empty(0, 3)}
    optimizer = ShardedAdamW(shards, frozenset({"matrix"}), OptimConfig(lr=0.1, weight_decay=0.5), total=1)
    optimizer.update([torch.ones(2, 2), -torch.ones(2), torch.empty(0, 3)])
    torch.testing.assert_close(shards["matrix"], torch.full((2, 2), 4.0 * (1 - 0.1 * 0.5) - 0.1))
    torch.testing.assert_close(shards["norm"], torch.full((2,), 4.1))
    assert (optimizer.updates, optimizer.steps_done) == (1, 0)


@pytest.mark.filterwarnings("ignore")  # torchao's own
def test_eight_bit_moments_follow_the_full_ones_and_are_saved_as_float32() -> None:
    pytest.importorskip("torchao", reason="rloop[torchao] is not installed")
    torch.compiler.set_stance("force_eager")  # else it compiles for every shape
    try:
        start, kinds = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)), ("adamw", "adamw_8bit")
        shards = [{"matrix": start.clone()} for _ in range(3)]
        full, small = (
            ShardedAdamW(shard, frozenset({"matrix"}), OptimConfig(name=kind, lr=0.01), total=9)
            for shard, kind in zip(shards, kinds, strict=False)
        )
        for step in range(8):
            gradient = torch.randn(64, 128, generator=torch.Generator().manual_seed(step))
            full.update([gradient.clone()])
            small.update([gradient.clone()])
        assert 0 < (shards[0]["matrix"] - shards[1]["matrix"]).abs().max() < 0.01  # of about 0.08 that they moved
        saved = {key: moment.clone() for _, key, moment in small.moments()}
        assert all(moment.dtype == torch.float32 and type(moment) is torch.Tensor for moment in saved.values())
        other = ShardedAdamW(shards[2], frozenset({"matrix"}), OptimConfig(name="adamw_8bit"), total=9)
        other.restore(8, 8, {"matrix": saved})
        for _, key, moment in other.moments():
            torch.testing.assert_close(moment, saved[key], atol=0.01 * float(saved[key].abs().max()), rtol=0)
        assert (other.steps_done, other.updates) == (8, 8)
    finally:
        torch.compiler.set_stance("default")
