"""Compaction: closed segments of finished groups become Parquet; segments of pieces that nobody needs go.

A segment is one step at a time: its Parquet file appears whole under its name, then its stream goes. A crash between
the two leaves both, with the same content, and the next compaction goes on. A stream that does not end whole stays
as it is: the answers before the tear are in it, and what else may be wrong with it is not for this file to decide.
"""

from collections.abc import Collection, Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from rollout.segments import BATCH_COLUMN, GROUPS, PIECES, is_whole, numbers, parquet_schema, read_stream
from rollout.storage import Storage

_ROW_GROUP_BYTES = 32 << 20  # what a reader has in memory at a time


def compact_segments(storage: Storage, before: int, row_group_bytes: int = _ROW_GROUP_BYTES) -> None:
    """Turn the streams with a number smaller than `before` into Parquet, one at a time.

    In memory are one row group and one compressed segment.
    """
    done = set(numbers(storage, GROUPS, "parquet"))
    for number in numbers(storage, GROUPS, "arrow"):
        if number >= before:
            continue
        if number not in done:
            data = storage.read(GROUPS.arrow(number))
            if not is_whole(data):
                continue
            storage.replace(GROUPS.parquet(number), _parquet(read_stream(data), row_group_bytes))
        storage.remove(GROUPS.arrow(number))


def remove_pieces(storage: Storage, before: int, kept: Collection[int]) -> None:
    """Remove the segments of pieces with a number smaller than `before`, but those `kept`."""
    for number in numbers(storage, PIECES, "arrow"):
        if number < before and number not in kept:
            storage.remove(PIECES.arrow(number))


def _parquet(batches: Iterable[pa.RecordBatch], row_group_bytes: int) -> pa.Buffer:
    schema = parquet_schema(GROUPS)
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(
        out,
        schema,
        compression="zstd",
        use_dictionary=False,  # the files are no smaller with it
        write_statistics=[BATCH_COLUMN],
        write_page_checksum=True,
        use_compliant_nested_type=False,  # else lists come back with other names inside
    ) as writer:
        for table in _row_groups(batches, schema, row_group_bytes):
            writer.write_table(table, row_group_size=max(1, table.num_rows))
    return out.getvalue()


def _row_groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema, size: int) -> Iterator[pa.Table]:
    """Tables of whole record batches, each with at least `size` bytes but the last."""
    rows: list[pa.RecordBatch] = []
    num_bytes = 0
    for number, batch in enumerate(batches):
        numbered = pa.array([number] * len(batch), schema.field(BATCH_COLUMN).type)
        rows.append(pa.record_batch([numbered, *batch.columns], schema=schema))
        num_bytes += batch.nbytes
        if num_bytes > size:
            yield pa.Table.from_batches(rows, schema)
            rows, num_bytes = [], 0
    if rows:
        yield pa.Table.from_batches(rows, schema)
