"""Rows of a data file, one after the other: JSON lines, JSON, Parquet, Arrow.

A file is read as far as rows are asked for, a line or a small batch at a time, so it may be larger than memory; of
Parquet and Arrow only the columns that are asked for. (JSON that is one list has no rows before its end: it is read
whole.)
"""

import gzip
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rollout.data_errors import DataError, shown

_BATCH = 256  # rows that are made Python objects at a time


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that is no row."""

    why: str


Row = dict[str, Any] | Unreadable
Rows = Iterator[tuple[int, Row]]
"""(row number from 1, row); blank lines count and are no rows."""


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Rows:
    """The rows of a file in its order.

    Args:
        path: Its ending tells the format (`SUFFIXES`).
        columns: What is needed of a row; None: all. Rows of JSON may have more, rows of any format less.

    Raises:
        DataError: When there is no such file, or it has another format.
    """
    if not path.exists():
        raise DataError([f"{path}: there is no such file; relative paths start at {Path.cwd()}{_hub_hint(path)}"])
    reader = _READERS.get(suffix(path))
    if reader is None:
        formats = ", ".join(SUFFIXES)
        raise DataError([f"{path}: data files end in {formats}, got {path.suffix!r}; convert it"])
    if not os.access(path, os.R_OK):
        raise DataError([f"{path}: may not be read by this user; change its permissions"])
    if path.stat().st_size == 0:
        raise DataError([f"{path}: is empty; a data file has one problem per row"])
    return reader(path, columns)


def suffix(path: Path) -> str:
    """The ending that tells the format, `.gz` included; empty for none of ours."""
    return next((ending for ending in SUFFIXES if path.name.endswith(ending)), "")


def _hub_hint(path: Path) -> str:
    """A name of the hub looks like a relative path."""
    if path.suffix or path.parent.exists():
        return ""
    name = "/".join(path.parts[-2:])
    return f". If you mean the data set of that name on the Hugging Face hub, write hf:{name}"


# -- JSON ----------------------------------------------------------------------------------------------------------


def _json_lines(path: Path, columns: Sequence[str] | None) -> Rows:
    with _opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            row = _parsed_line(line, first=number == 1)
            if row is not None:
                yield number, row


def _opened(path: Path) -> BinaryIO:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _parsed_line(line: bytes, first: bool) -> Row | None:
    """A line as a row; None for a blank one."""
    try:
        text = line.decode("utf-8-sig" if first else "utf-8").strip()
        return _as_row(json.loads(text)) if text else None
    except UnicodeDecodeError as error:
        bad = line[error.start : error.start + 1]
        return Unreadable(f"byte {error.start + 1} of the line ({bad!r}) is not UTF-8; save it as UTF-8")
    except json.JSONDecodeError as error:
        where = f"{error.msg} at character {error.pos + 1} of {shown(text)}"
        return Unreadable(f"not JSON, {where}; one JSON object per line")
    except RecursionError:
        return Unreadable(f"nested too deeply to be a row: {shown(text)}; drop the row")


def _as_row(value: Any) -> Row:
    if isinstance(value, dict):
        return value
    return Unreadable(f"a row is a JSON object with named values, got {shown(json.dumps(value))}")


def _json(path: Path, columns: Sequence[str] | None) -> Rows:
    """A list of rows; or lines, as many tools write into `.json` files."""
    with _opened(path) as file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
        if not head.startswith(b"["):
            yield from _json_lines(path, columns)
            return
    with _opened(path) as file:
        try:
            rows = json.loads(file.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise DataError([f"{path}: not a JSON list of rows: {shown(str(error))}; write it again"]) from None
    yield from ((number, _as_row(row)) for number, row in enumerate(rows, start=1))


# -- Arrow ---------------------------------------------------------------------------------------------------------


def _parquet(path: Path, columns: Sequence[str] | None) -> Rows:
    import pyarrow.parquet as pq

    def batches() -> Iterator[Any]:
        # pre_buffer would fetch whole row groups ahead of the rows that are asked for
        with closing(pq.ParquetFile(path, memory_map=True, pre_buffer=False)) as file:
            wanted = None if columns is None else [name for name in file.schema_arrow.names if name in columns]
            yield from file.iter_batches(_BATCH, columns=wanted)

    return _rows_of(batches(), path, "Parquet")


def _arrow(path: Path, columns: Sequence[str] | None) -> Rows:
    """The stream format (what `datasets` saves), or the file format."""
    import pyarrow as pa

    def batches() -> Iterator[Any]:
        with pa.memory_map(str(path)) as file:
            if file.read(6) == b"ARROW1":
                reader = pa.ipc.open_file(file)
                found: Iterator[Any] = (reader.get_batch(i) for i in range(reader.num_record_batches))
            else:
                file.seek(0)
                found = iter(pa.ipc.open_stream(file))
            for batch in found:
                wanted = [name for name in batch.schema.names if columns is None or name in columns]
                for start in range(0, batch.num_rows, _BATCH):
                    yield batch.select(wanted).slice(start, _BATCH)

    return _rows_of(batches(), path, "Arrow")


def _rows_of(batches: Iterator[Any], path: Path, what: str) -> Rows:
    import pyarrow as pa

    number = 0
    try:
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError) as error:
        after = f", after row {number}" if number else ""
        raise DataError([f"{path}: not {what} data{after}: {shown(str(error))}; write it again"]) from None


_READERS: dict[str, Callable[[Path, Sequence[str] | None], Rows]] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".json": _json,
    ".json.gz": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
SUFFIXES = tuple(_READERS)
