"""Supervised data: demonstrations and expert sets, one Parquet file each.

Columns `prompt_ids` and `response_ids` (list<int32>); further columns are provenance and are ignored here. The
order of training is a function of (rows, seed, step), so a phase can be taken up at any step.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rollout.records import IntArray
from rollout.storage import whole_file

RowArray = npt.NDArray[np.int64]
"""Row numbers of a dataset."""

_IDS = pa.list_(pa.int32())
_ROW_GROUP_BYTES = 32 << 20  # what a writer has in memory at a time


@dataclass(frozen=True, slots=True, eq=False)
class SupervisedExample:
    """A prompt and the answer to imitate."""

    prompt_ids: IntArray
    """[P]"""
    response_ids: IntArray
    """[L] with the token that ends it."""


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
            ValueError: When a column is missing or the file has no row.
        """
        names = pq.read_schema(path).names
        if missing := {"prompt_ids", "response_ids"} - set(names):
            raise ValueError(f"{path} needs the columns prompt_ids and response_ids, it lacks {sorted(missing)}")
        table = pq.read_table(path, columns=["prompt_ids", "response_ids"])
        if not len(table):
            raise ValueError(f"{path} has no examples; a supervised phase needs at least one")
        self._prompts, self._responses = table["prompt_ids"], table["response_ids"]

    def __len__(self) -> int:
        return len(self._prompts)

    def __getitem__(self, row: int) -> SupervisedExample:
        return SupervisedExample(
            self._prompts[row].values.to_numpy().astype(np.int32),
            self._responses[row].values.to_numpy().astype(np.int32),
        )

    def split(self, fraction: float, seed: int) -> tuple[RowArray, RowArray]:
        """Rows to train and rows to hold out, in an order of chance: all answers to a prompt are on one side.

        Each prompt is held out with probability `fraction`. Where that leaves nothing to train, nothing is held out.
        """
        everything = np.arange(len(self), dtype=np.int64)
        if not fraction:
            return everything, everything[:0]
        key = str(seed).encode()
        draws = np.empty(len(self), np.uint64)
        for row, prompt in enumerate(self._prompts):
            ids = prompt.values.to_numpy().astype(np.int32)
            draws[row] = int.from_bytes(blake2b(ids.tobytes(), digest_size=8, key=key).digest(), "big")
        held = draws < np.uint64(int(fraction * 2**64))
        if held.all():
            return everything, everything[:0]
        return everything[~held], np.random.default_rng(seed).permutation(everything[held])


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
