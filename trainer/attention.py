"""Attention over packed sequences: T tokens end to end, each attending within its own sequence only.

On GPUs variable-length kernels do it, which take the borders: flash-attn's where it is installed, else those that
PyTorch has of it. Elsewhere `packed_sdpa` does, which calls PyTorch's kernel once for neighbours of one length: nothing
is padded, and nothing copied but the outputs.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from rollout.records import IntArray

PACKED_SDPA, PACKED_VARLEN, FLASH = "packed_sdpa", "packed_varlen", "flash_attention_2"
_BY_NAME = {"sdpa": PACKED_SDPA, "varlen": PACKED_VARLEN, FLASH: FLASH}
_AMPERE = (8, 0)


@dataclass(frozen=True, slots=True, eq=False)
class PackedSequences:
    """b sequences end to end, T tokens together: the input of a forward pass."""

    token_ids: Tensor
    """[T] int64"""
    positions: Tensor
    """[T] int64, from 0 in each sequence."""
    borders: Tensor
    """[b + 1] int32 where each begins, and T."""
    lengths: IntArray
    """[b] on the CPU; no tuple, since FSDP walks through those at every block."""
    runs: IntArray
    """[r, 2] on the CPU: how many neighbours have one length, and that length."""

    @classmethod
    def of(cls, token_ids: IntArray, lengths: Sequence[int]) -> "PackedSequences":
        """Pack [T] tokens of sequences of the given lengths."""
        borders = np.concatenate([[0], np.cumsum(lengths)])
        each = np.asarray(lengths, np.int32)
        first = np.flatnonzero(np.diff(each, prepend=-1))  # of each run
        return cls(
            torch.from_numpy(token_ids.astype(np.int64)),
            torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])),
            torch.from_numpy(borders.astype(np.int32)),
            each,
            np.stack([np.diff(first, append=len(each)), each[first]], axis=1).astype(np.int32),
        )

    def to(self, device: torch.device, non_blocking: bool = False) -> "PackedSequences":
        """The same on `device`."""
        token_ids, positions, borders = (
            t.to(device, non_blocking=non_blocking) for t in (self.token_ids, self.positions, self.borders)
        )
        return PackedSequences(token_ids, positions, borders, self.lengths, self.runs)

    def model_arguments(self, attention: str) -> dict[str, Any]:
        """What a transformers decoder is called with, [1, T] tokens, for the attention it was built with."""
        arguments: dict[str, Any] = {"input_ids": self.token_ids[None], "position_ids": self.positions[None]}
        if attention != FLASH:
            return arguments | {"packed": self}
        longest = int(self.lengths.max())
        return arguments | {
            "cu_seq_lens_q": self.borders,
            "cu_seq_lens_k": self.borders,
            "max_length_q": longest,
            "max_length_k": longest,
        }


Kernel = Callable[[Tensor, Tensor, Tensor, PackedSequences, float, float | None, int | None], Tensor]
"""(queries, keys, values, sequences, dropout, scale, sliding window) → [T, heads, d]; shapes as for `_attention`."""


def _attention(kernel: Kernel) -> Callable[..., tuple[Tensor, None]]:
    """What transformers calls: [1, heads, T, d] queries (keys, values of perhaps fewer heads) to [1, T, heads, d].

    It raises `NotImplementedError` for attention with capped scores or sinks, which the kernels cannot do.
    """

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        packed: PackedSequences,
        dropout: float = 0.0,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        if softcap is not None or s_aux is not None:
            raise NotImplementedError(
                f"packed attention can neither cap scores (softcap={softcap}) nor add sinks, as "
                f"{type(module).__name__} does; train it with model.attention=flash_attention_2 on a GPU"
            )
        return kernel(query, key, value, packed, dropout, scaling, sliding_window)[None], None

    return attention


def _by_runs(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packed: PackedSequences,
    dropout: float,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    """PyTorch's kernel, once for neighbours of one length."""
    grouped = query.shape[1] != key.shape[1]
    runs = packed.runs.tolist()
    sizes = [count * length for count, length in runs]
    outputs = []
    for (count, length), *run in zip(runs, *(x.split(sizes, dim=2) for x in (query, key, value)), strict=True):
        q, k, v = (x[0].unflatten(1, (count, length)).transpose(0, 1) for x in run)  # [count, heads, length, d]
        mask = None
        if sliding_window is not None and length > sliding_window:
            mask = _window(length, sliding_window, q.device)
        out = F.scaled_dot_product_attention(
            q, k, v, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=grouped
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)


def packed_by(varlen: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, None]]:
    """Attention by a kernel that is called as `torch.nn.attention.varlen.varlen_attn` is."""

    def by_borders(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        packed: PackedSequences,
        dropout: float,
        scaling: float | None,
        sliding_window: int | None,
    ) -> Tensor:
        if dropout:
            raise NotImplementedError(f"packed_varlen has no dropout, got {dropout:g}; set it to 0 in config.json")
        longest = int(packed.lengths.max())
        return varlen(
            *(x[0].transpose(0, 1) for x in (query, key, value)),
            packed.borders,
            packed.borders,
            longest,
            longest,
            scale=scaling,
            window_size=((sliding_window or 0) - 1, 0),  # (-1, 0): all that came before
            enable_gqa=query.shape[1] != key.shape[1],
        )

    return _attention(by_borders)


packed_sdpa = _attention(_by_runs)


def _window(length: int, window: int, device: torch.device) -> Tensor:
    """[L, L] bool: a token attends to itself and to the `window` - 1 before it."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window)


# Without a mask function, so transformers makes no mask.
AttentionInterface.register(PACKED_SDPA, packed_sdpa)
AttentionInterface.register(PACKED_VARLEN, packed_by(varlen_attn))


def choose_attention(asked: str, compute_dtype: str, device: torch.device) -> str:
    """`flash_attention_2`, `packed_varlen` or `packed_sdpa`: what was asked for, or the first that runs here.

    Args:
        asked: `auto`, `flash_attention_2`, `varlen` or `sdpa`.
        compute_dtype: What the model computes in.
        device: Where.

    Raises:
        ValueError: What was asked for cannot run here.
    """
    if asked == "auto":
        return next(_BY_NAME[way] for way in (FLASH, "varlen", "sdpa") if not _hindrance(way, compute_dtype, device))
    if hindrance := _hindrance(asked, compute_dtype, device):
        raise ValueError(f"attention {asked} cannot run here: {hindrance}; use auto or sdpa")
    return _BY_NAME[asked]


def _hindrance(way: str, compute_dtype: str, device: torch.device) -> str | None:
    if way == "sdpa":
        return None
    if device.type != "cuda":
        return f"it needs a CUDA device, got {device.type}"
    if compute_dtype == "float32":
        return "it computes in bfloat16, got compute_dtype float32"
    if way == "varlen":
        found = torch.cuda.get_device_capability(device)
        return None if found >= _AMPERE else f"it needs compute capability 8.0, got {found[0]}.{found[1]}"
    try:
        importlib.import_module("flash_attn")
    except ImportError as error:
        return f"flash-attn does not import ({error}); install rloop[flash-attn]"
    return None
