import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.attention import PACKED_SDPA, PackedSequences, choose_attention, packed_sdpa

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_every_token_has_one_cell_and_padding_stays_below_a_third(lengths: list[int]) -> None:
    total = sum(lengths)
    packed = PackedSequences.of(np.arange(total, dtype=np.int32), lengths)
    rows = torch.cat([block.rows for block in packed.blocks])
    assert torch.equal(rows[packed.cells], torch.arange(total))
    assert len(rows) <= total / 0.75


def test_capped_scores_and_sinks_are_refused_and_not_ignored() -> None:
    packed = PackedSequences.of(np.arange(4, dtype=np.int32), [4])
    x = torch.zeros(1, 1, 4, 8)
    with pytest.raises(NotImplementedError, match=r"neither cap scores \(softcap=30.0\).*as Linear does"):
        packed_sdpa(torch.nn.Linear(1, 1), x, x, x, None, packed, softcap=30.0)


def test_flash_attention_is_refused_with_its_reason_and_auto_goes_without() -> None:
    with pytest.raises(
        ValueError, match=r"flash_attention_2 cannot run here: it needs a CUDA device, got cpu; use auto"
    ):
        choose_attention("flash_attention_2", "bfloat16", CPU)
    with pytest.raises(ValueError, match="computes in bfloat16, got compute_dtype float32"):
        choose_attention("flash_attention_2", "float32", torch.device("cuda"))
    assert choose_attention("auto", "float32", CPU) == choose_attention("sdpa", "float32", CPU) == PACKED_SDPA
