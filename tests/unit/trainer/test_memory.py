import pytest

from trainer.memory import GIB, Shape, rank_memory

QWEN_7B = Shape(7_615_616_512, 28, 3584, 152_064)


def test_the_parts_of_a_7b_model_on_eight_ranks() -> None:
    memory = rank_memory(QWEN_7B, 8, 8192, checkpointing=True)
    assert memory.shards == 16 * 7_615_616_512 // 8
    block = (7_615_616_512 - 2 * 152_064 * 3584) // 28
    assert memory.gathered == 2 * (2 * block + 2 * 152_064 * 3584) + 4 * 3 * 152_064 * 3584
    assert memory.activations == 8192 * 3584 * (2 * 28 + 34)
    assert memory.total / GIB == pytest.approx(26.4, abs=0.1)


def test_what_each_option_changes() -> None:
    plain = rank_memory(QWEN_7B, 8, 8192)
    assert plain.activations == 28 * 34 * 3584 * 8192
    assert rank_memory(QWEN_7B, 8, 8192, moment_bytes=2).shards == 10 * QWEN_7B.parameters // 8
    assert rank_memory(QWEN_7B, 8, 8192, reference=True).shards == 20 * QWEN_7B.parameters // 8
    adapted = rank_memory(QWEN_7B, 1, 8192, adapter_parameters=40_000_000)
    assert adapted.shards == 2 * QWEN_7B.parameters + 16 * 40_000_000
