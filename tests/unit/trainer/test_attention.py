import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.attention import PACKED_SDPA, PackedSequences, choose_attention, packed_by, packed_sdpa

CPU = torch.device("cpu")


def varlen_on_paper(q, k, v, borders_q, borders_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """What PyTorch's documentation says that its kernel does with [T, heads, d], sequence by sequence; causal only."""
    assert (max_q, max_k) == (int(borders_q.diff().max()), int(borders_k.diff().max()))
    assert enable_gqa == (q.shape[1] != k.shape[1])
    left, right = window_size
    assert right == 0
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    outputs = []
    for begin, end in zip(borders_q.tolist(), borders_q.tolist()[1:], strict=False):
        scores = torch.einsum("qhd,khd->hqk", q[begin:end], k[begin:end]) * (scale or q.shape[-1] ** -0.5)
        distance = torch.arange(end - begin)[:, None] - torch.arange(end - begin)
        seen = (distance >= 0) & ((distance <= left) if left >= 0 else True)
        outputs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v[begin:end]))
    return torch.cat(outputs)


@pytest.mark.parametrize("attention", [packed_sdpa, packed_by(varlen_on_paper)], ids=["sdpa", "varlen"])
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.sampled_from([None, 3]), st.sampled_from([1, 2]))
def test_packed_attention_is_dense_attention_under_a_mask_of_blocks(
    attention, lengths: list[int], window: int | None, kv_heads: int
) -> None:
    total = sum(lengths)
    packed = PackedSequences.of(np.arange(total, dtype=np.int32), lengths)
    generator = torch.Generator().manual_seed(total)
    q, k, v = (torch.randn(1, h, total, 8, generator=generator, requires_grad=True) for h in (2, kv_heads, kv_heads))
    out, _ = attention(torch.nn.Identity(), q, k, v, None, packed, sliding_window=window)
    sequence = np.repeat(np.arange(len(lengths)), lengths)
    distance = np.arange(total)[:, None] - np.arange(total)
    mask = (sequence[:, None] == sequence) & (distance >= 0) & (distance < (window or total))
    scores = q @ k.repeat_interleave(2 // kv_heads, 1).transpose(2, 3) / 8**0.5
    scores = scores.masked_fill(~torch.from_numpy(mask), -torch.inf)
    wanted = (scores.softmax(-1) @ v.repeat_interleave(2 // kv_heads, 1)).transpose(1, 2)
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(out.shape, generator=generator)
    got, expected = (torch.autograd.grad((o * upstream).sum(), (q, k, v)) for o in (out, wanted))
    for gradient, reference in zip(got, expected, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-5, rtol=1e-4)


def test_capped_scores_and_sinks_are_refused_and_not_ignored() -> None:
    packed = PackedSequences.of(np.arange(4, dtype=np.int32), [4])
    x = torch.zeros(1, 1, 4, 8)
    with pytest.raises(NotImplementedError, match=r"neither cap scores \(softcap=30.0\).*as Linear does"):
        packed_sdpa(torch.nn.Linear(1, 1), x, x, x, None, packed, softcap=30.0)
    with pytest.raises(NotImplementedError, match=r"no dropout, got 0\.1"):
        packed_by(varlen_on_paper)(torch.nn.Linear(1, 1), x, x, x, None, packed, dropout=0.1)


def test_flash_attention_is_refused_with_its_reason_and_auto_goes_without() -> None:
    with pytest.raises(
        ValueError, match=r"flash_attention_2 cannot run here: it needs a CUDA device, got cpu; use auto"
    ):
        choose_attention("flash_attention_2", "bfloat16", CPU)
    with pytest.raises(ValueError, match="computes in bfloat16, got compute_dtype float32"):
        choose_attention("flash_attention_2", "float32", torch.device("cuda"))
    with pytest.raises(ValueError, match="varlen cannot run here: it needs a CUDA device, got cpu"):
        choose_attention("varlen", "bfloat16", CPU)
    assert choose_attention("auto", "float32", CPU) == choose_attention("sdpa", "float32", CPU) == PACKED_SDPA
