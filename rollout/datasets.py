"""Supervised data: demonstrations and expert sets, one Parquet file each.

Columns `prompt_ids` and `response_ids` (list<int32>) and, where the policy did not write all of a response itself,
`loss_mask` (list<bool>); further columns are provenance and are ignored here. The order of training is a function of
(rows, seed, step), so a phase can be taken up at any step.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rollout.records import BoolArray, IntArray
from rollout.storage import whole_file

RowArray = npt.NDArray[np.int64]
"""Row numbers of a dataset."""

_IDS = pa.list_(pa.int32())
_MASK = pa.list_(pa.bool_())
_ROW_GROUP_BYTES = 32 << 20  # what a writer has in memory at a time


@dataclass(frozen=True, slots=True, eq=False)
class SupervisedExample:
    """A prompt and the answer to imitate."""

    prompt_ids: IntArray
    """[P]"""
    response_ids: IntArray
    """[L] with the token that ends it."""
    loss_mask: BoolArray
    """[L] tokens to imitate; the others (what a tool said) are only read."""


def write_supervised(path: Path, pairs: Iterable[tuple[Sequence[int], Sequence[int]]]) -> int:
    """Write (prompt ids, response ids) pairs. Returns how many.

    Raises:
        ValueError: For a pair with an empty prompt or an empty response.
    """
    prompts, responses = [], []
    for row, (prompt_ids, response_ids) in enumerate(pairs):
        if not len(prompt_ids) or not len(response_ids):
            raise ValueError(
                f"a supervised example needs a prompt and a response, got {len(prompt_ids)} and {len(response_ids)} "
                f"tokens in row {row}; leave it out"
            )
        prompts.append(prompt_ids)
        responses.append(response_ids)
    write_table(path, pa.table({"prompt_ids": pa.array(prompts, _IDS), "response_ids": pa.array(responses, _IDS)}))
    return len(prompts)


def write_table(path: Path, table: pa.Table) -> None:
    """Write durably, by atomic rename: a reader sees the whole file or none."""
    write_batches(path, table.schema, table.to_batches())


def write_batches(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write what streams by, durably and by atomic rename; a row group at a time is in memory."""
    with whole_file(path) as file, pq.ParquetWriter(file, schema) as writer:
        pending: list[pa.RecordBatch] = []
        num_bytes = 0
        for batch in batches:
            pending.append(batch)
            num_bytes += batch.nbytes
            if num_bytes >= _ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(pending, schema))
                pending, num_bytes = [], 0
        if pending:
            writer.write_table(pa.Table.from_batches(pending, schema))


class SupervisedDataset:
    """The examples of one file, in memory as Arrow has them: flat columns of 4 bytes per token, in chunks."""

    def __init__(self, path: Path) -> None:
        """Read a file.

        Raises:
            ValueError: When a column is missing, the file has no row, or a mask is not as long as its response.
        """
        names = pq.read_schema(path).names
        if missing := {"prompt_ids", "response_ids"} - set(names):
            raise ValueError(f"{path} needs the columns prompt_ids and response_ids, it lacks {sorted(missing)}")
        wanted = [name for name in names if name in ("prompt_ids", "response_ids", "loss_mask")]
        table = pq.read_table(path, columns=wanted)
        if not len(table):
            raise ValueError(f"{path} has no examples; a supervised phase needs at least one")
        self._prompts, self._responses = table["prompt_ids"].cast(_IDS), table["response_ids"].cast(_IDS)
        self._masks = table["loss_mask"].cast(_MASK) if "loss_mask" in names else None
        if self._masks is not None and not _lengths(self._masks).equals(_lengths(self._responses)):
            raise ValueError(f"{path}: a row's loss_mask needs as many entries as its response_ids")

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, row: int) -> SupervisedExample:
        response = self._responses[row].values.to_numpy()
        mask = (
            np.ones(len(response), np.bool_)
            if self._masks is None
            else self._masks[row].values.to_numpy(zero_copy_only=False)
        )
        return SupervisedExample(self._prompts[row].values.to_numpy(), response, mask)

    def split(self, fraction: float, seed: int) -> tuple[RowArray, RowArray]:
        """Rows to train and rows to hold out, in an order of chance: all answers to a prompt are on one side.

        Each prompt is held out with probability `fraction`. Where that leaves nothing to train, nothing is held out.
        """
        everything = np.arange(len(self), dtype=np.int64)
        if not fraction:
            return everything, everything[:0]
        draws = np.concatenate([_hashes(chunk, str(seed).encode()) for chunk in self._prompts.chunks])
        held = draws < np.uint64(int(fraction * 2**64))
        if held.all():
            return everything, everything[:0]
        return everything[~held], np.random.default_rng(seed).permutation(everything[held])


def _lengths(column: pa.ChunkedArray) -> pa.Array:
    return pc.list_value_length(column).combine_chunks()


def _hashes(lists: pa.ListArray, key: bytes) -> npt.NDArray[np.uint64]:
    """[N] of the tokens of each row."""
    values, offsets = memoryview(lists.values.to_numpy()), lists.offsets.to_pylist()
    hashes = (blake2b(values[a:b], digest_size=8, key=key).digest() for a, b in pairwise(offsets))
    return np.frombuffer(b"".join(hashes), ">u8")


def num_steps(rows: int, batch_size: int, epochs: float) -> int:
    """Optimizer steps in `epochs` passes (fractions count), at least 1.

    Every batch is full: the last one runs over into a further shuffle. A batch larger than the data is the data.
    """
    return max(1, math.ceil(round(rows * epochs / min(batch_size, rows), 9)))


def batch_rows(rows: int, batch_size: int, seed: int, step: int) -> RowArray:
    """[min(batch_size, rows)] rows of step `step`: the step-th stretch of seeded shuffles laid end to end."""
    size = min(batch_size, rows)
    first, last = divmod(step * size, rows), divmod((step + 1) * size - 1, rows)
    shuffles = [np.random.default_rng([seed, epoch]).permutation(rows) for epoch in range(first[0], last[0] + 1)]
    return np.concatenate(shuffles)[first[1] : first[1] + size]
