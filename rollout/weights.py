"""How weights lie in a shared file between learner and engines: names, dtypes, shapes, offsets. No copying here.

The learner's ranks write their own rows into the file, the engine's worker reads views of it. Two slots
alternate, so that version v+1 is staged while engines may still read v.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

ITEM_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
_ALIGNMENT = 64  # bytes; a cache line, and more than any dtype asks for


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor in the file."""

    name: str
    """Hugging Face parameter name, e.g. `model.layers.0.mlp.up_proj.weight`."""
    dtype: str
    """A key of `ITEM_SIZES`."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor itself, without alignment."""
        return math.prod(self.shape) * ITEM_SIZES[self.dtype]


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """Where each tensor lies. The same for every version of a run."""

    tensors: tuple[TensorSpec, ...]
    nbytes: int
    """Size of the file."""

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> "WeightLayout":
        """Lay (name, dtype, shape) triples end to end, each aligned."""
        specs, offset = [], 0
        for name, dtype, shape in tensors:
            if dtype not in ITEM_SIZES:
                raise ValueError(f"weights travel as {', '.join(ITEM_SIZES)}, got {dtype!r} for {name}")
            spec = TensorSpec(name, dtype, tuple(shape), offset)
            specs.append(spec)
            offset += -(-spec.nbytes // _ALIGNMENT) * _ALIGNMENT
        return cls(tuple(specs), offset)


@dataclass(frozen=True, slots=True)
class WeightSlot:
    """One version of the weights, staged and complete in a file."""

    path: str
    """A file in shared memory."""
    layout: WeightLayout
    version: int
