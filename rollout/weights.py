"""How weights lie in a file between learner and engines: names, dtypes, shapes, offsets. No copying here.

The learner's ranks write their own rows into the file, the engine's worker reads views of it. Behind the tensors each
rank has a line of checksums (see `rollout.weight_sums`). Sides alternate, so that version v+1 is staged while engines
may still read v.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

ITEM_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}
_ALIGNMENT = 64  # bytes; a cache line, and more than any dtype asks for


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor in the file: a parameter of the learner."""

    name: str
    """Hugging Face parameter name, e.g. `model.layers.0.mlp.up_proj.weight`."""
    dtype: str
    """A key of `ITEM_SIZES`."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""
    parts: tuple[str, ...] = ()
    """Names of what checkpoints and engines have in its place, equal pieces end to end; left out: itself."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))  # a list, where it comes from another process
        object.__setattr__(self, "parts", tuple(self.parts) or (self.name,))

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor itself, without alignment."""
        return math.prod(self.shape) * ITEM_SIZES[self.dtype]

    def pieces(self) -> "list[TensorSpec]":
        """The same bytes as a checkpoint names them: a matrix of one expert, where this is those of all."""
        shape, step = piece_shape(self.shape, len(self.parts)), self.nbytes // len(self.parts)
        return [TensorSpec(name, self.dtype, shape, self.offset + i * step) for i, name in enumerate(self.parts)]


def piece_shape(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Shape of each of `count` equal pieces of a tensor: one is the whole, several are rows of its second axis."""
    return shape if count == 1 else (shape[0] * shape[1] // count, *shape[2:])


@dataclass(frozen=True, slots=True)
class RowSource:
    """Where one learner rank serves the rows that it holds."""

    host: str
    port: int
    token: str = field(repr=False)
    """Who does not know it gets nothing."""


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """Where each tensor lies. The same for every version of a run."""

    tensors: tuple[TensorSpec, ...]
    nbytes: int
    """Size of the file, checksums included."""
    ranks: int = 1
    """How many write it: each has a line in the table of checksums."""
    sources: tuple[RowSource, ...] = ()
    """Where the ranks serve their rows; empty when all of them write one shared file."""

    @property
    def pieces(self) -> "list[TensorSpec]":
        """What engines load, one by one."""
        return [piece for spec in self.tensors for piece in spec.pieces()]

    @property
    def table_offset(self) -> int:
        """Where the table of checksums begins, in bytes; it ends with the file."""
        return self.nbytes - self.ranks * self.line_bytes

    @property
    def line_bytes(self) -> int:
        """Size of one rank's line in the table: 8 bytes per tensor and 8 for the version."""
        return 8 * (1 + len(self.tensors))

    @classmethod
    def of(
        cls,
        tensors: Iterable[tuple[str, str, tuple[int, ...]]],
        ranks: int = 1,
        parts: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    ) -> "WeightLayout":
        """Lay (name, dtype, shape) triples end to end, each aligned, and the table behind them.

        `parts` names the pieces of those that checkpoints do not have under their own name.
        """
        specs, offset = [], 0
        for name, dtype, shape in tensors:
            if dtype not in ITEM_SIZES:
                raise ValueError(f"weights travel as {', '.join(ITEM_SIZES)}, got {dtype!r} for {name}")
            spec = TensorSpec(name, dtype, tuple(shape), offset, parts.get(name, ()))
            specs.append(spec)
            offset += -(-spec.nbytes // _ALIGNMENT) * _ALIGNMENT
        return cls(tuple(specs), offset + ranks * 8 * (1 + len(specs)), ranks)


@dataclass(frozen=True, slots=True)
class WeightSlot:
    """One version of the weights, staged and complete in a file."""

    path: str
    """A file in memory on this host; empty as long as each rank has its rows to itself (see `WeightLayout.sources`)."""
    layout: WeightLayout
    version: int
    side: int = 0
    """Which of the alternating files, or shelves of a rank."""
