import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollout.data_errors import DataError
from rollout.row_files import SUFFIXES, Unreadable, read_rows

ROWS = [
    {"id": i, "question": f"What is {i} + {i}?", "info": {"level": i % 3, "tags": ["sum", "é"]}, "answer": str(2 * i)}
    for i in range(1_000)
]


def arrow_stream(path: Path, rows: list[Any]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=300)


def arrow_file(path: Path, rows: list[Any]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=300)


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


WRITERS: dict[str, tuple[str, Callable[[Path, list[Any]], Any]]] = {
    "JSON lines": (".jsonl", lambda path, rows: path.write_bytes(lines(rows))),
    "JSON lines, packed": (".jsonl.gz", lambda path, rows: path.write_bytes(gzip.compress(lines(rows)))),
    "JSON list": (".json", lambda path, rows: path.write_text(json.dumps(rows, indent=1))),
    "JSON list, packed": (".json.gz", lambda path, rows: path.write_bytes(gzip.compress(json.dumps(rows).encode()))),
    "JSON lines called JSON": (".json", lambda path, rows: path.write_bytes(lines(rows))),
    "Parquet": (".parquet", lambda path, rows: pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=70)),
    "Arrow stream": (".arrow", arrow_stream),
    "Arrow file": (".arrow", arrow_file),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_rows_with_their_numbers(tmp_path: Path, kind: str) -> None:
    ending, writer = WRITERS[kind]
    path = tmp_path / f"rows{ending}"
    writer(path, ROWS)
    assert list(read_rows(path)) == list(enumerate(ROWS, start=1))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.fixed_dictionaries({"q": st.text(max_size=8), "n": st.integers(-9, 9)}), min_size=1, max_size=9),
    kind=st.sampled_from(sorted(WRITERS)),
)
def test_whatever_the_text_it_comes_back_as_it_was(tmp_path: Path, rows: list[Any], kind: str) -> None:
    ending, writer = WRITERS[kind]
    path = tmp_path / f"rows{ending}"
    writer(path, rows)
    assert [row for _, row in read_rows(path)] == rows


@pytest.mark.parametrize("kind", ["Parquet", "Arrow stream", "Arrow file"])
def test_only_the_columns_that_are_asked_for_are_read(tmp_path: Path, kind: str) -> None:
    ending, writer = WRITERS[kind]
    path = tmp_path / f"rows{ending}"
    writer(path, ROWS)
    assert [row for _, row in read_rows(path, ["answer", "info", "absent"])][:2] == [
        {"info": ROWS[i]["info"], "answer": ROWS[i]["answer"]} for i in range(2)
    ]


@pytest.mark.parametrize("kind", ["Parquet", "Arrow stream", "Arrow file"])
def test_the_first_rows_of_a_large_file_take_little_memory(tmp_path: Path, kind: str) -> None:
    ending, writer = WRITERS[kind]
    path = tmp_path / f"rows{ending}"
    writer(path, [{"question": f"{i}", "text": f"{i} " * 2_000} for i in range(4_000)])
    before = pa.total_allocated_bytes()
    rows = read_rows(path)
    assert next(rows)[1]["question"] == "0"  # type: ignore[index]
    assert pa.total_allocated_bytes() - before < 8 << 20  # of about 40 MB
    rows.close()  # type: ignore[attr-defined]


def test_rows_that_are_none_are_told_apart_from_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n[1]\n{"a": \n\xff\n' + b"[" * 100_000 + b"\n" + b'{"a": 2}')
    rows = dict(read_rows(path))
    assert (rows[1], rows[7]) == ({"a": 1}, {"a": 2})
    whys = {number: row.why for number, row in rows.items() if isinstance(row, Unreadable)}
    assert list(whys) == [3, 4, 5, 6]
    assert whys[3] == "a row is a JSON object with named values, got '[1]'"
    assert whys[4].startswith("not JSON, Expecting value at character 6 of '{\"a\":'")
    assert whys[5] == "byte 1 of the line (b'\\xff') is not UTF-8; save it as UTF-8"
    assert whys[6].startswith("nested too deeply")
    assert [type(row) for _, row in read_rows(json_list(tmp_path, [{"a": 1}, 2]))] == [dict, Unreadable]


def json_list(tmp_path: Path, rows: list[Any]) -> Path:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "there is no such file; relative paths start at"),
        ("openai/gsm8k", None, "write hf:openai/gsm8k"),
        (
            "a.csv",
            b"question,answer",
            "data files end in .jsonl, .jsonl.gz, .json, .json.gz, .parquet, .arrow, got '.csv'",
        ),
        ("a.jsonl", b"", "is empty; a data file has one problem per row"),
        ("a.parquet", b"question,answer", "not Parquet data"),
        ("a.arrow", b"question,answer" * 9, "not Arrow data"),
        ("a.json", b'[{"question": 1},', "not a JSON list of rows"),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        list(read_rows(path))
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)


def test_an_arrow_file_that_was_cut_off_says_after_which_row(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    arrow_stream(path, ROWS)
    path.write_bytes(path.read_bytes()[:-3_000])
    with pytest.raises(DataError, match="not Arrow data, after row 900"):
        list(read_rows(path))


def test_every_format_has_an_ending_of_its_own() -> None:
    assert set(SUFFIXES) == {ending for ending, _ in WRITERS.values()}
