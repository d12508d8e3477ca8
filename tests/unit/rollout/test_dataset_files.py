import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rollout.data_errors import DataError
from rollout.dataset_files import choose, data_files
from rollout.row_files import read_rows

README = """---
license: mit
configs:
- config_name: main
  default: true
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: ["main/test-*"]
- config_name: socratic
  data_files: socratic/*.parquet
---
# Grade school
"""


def saved(path: Path, rows: list[dict[str, Any]], split: str = "train", shards: int = 1) -> Path:
    """A directory as `datasets.Dataset.save_to_disk` writes it."""
    path.mkdir(parents=True)
    names = [f"data-{i:05}-of-{shards:05}.arrow" for i in range(shards)]
    for i, name in enumerate(names):
        table = pa.Table.from_pylist(rows[i::shards])
        with pa.ipc.new_stream(path / name, table.schema) as writer:
            writer.write_table(table)
    state = {"_data_files": [{"filename": name} for name in names], "_split": split, "_indices_data_files": None}
    (path / "state.json").write_text(json.dumps(state))
    (path / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return path


def rows(files: list[Path]) -> list[Any]:
    return [row for file in files for _, row in read_rows(file)]


def refusal(*args: Any) -> str:
    with pytest.raises(DataError) as refused:
        data_files(*args)
    return str(refused.value)


def test_a_saved_dataset_is_its_shards_in_order(tmp_path: Path) -> None:
    path = saved(tmp_path / "set", [{"n": i} for i in range(5)], shards=2)
    assert rows(data_files(path)) == [{"n": n} for n in (0, 2, 4, 1, 3)]
    assert data_files(path, "train") == data_files(path)
    assert "is the split 'train' alone, not 'test'" in refusal(path, "test")


def test_of_a_saved_dict_one_split_is_taken_and_train_where_none_is_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        saved(tmp_path / split, [{"split": split}], split)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert rows(data_files(tmp_path)) == [{"split": "train"}]
    assert rows(data_files(tmp_path, "test")) == [{"split": "test"}]
    assert "has no split 'dev', it has train, test; set split" in refusal(tmp_path, "dev")


def test_a_saved_dataset_whose_rows_are_picked_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "set", [{"n": 1}])
    state = json.loads((path / "state.json").read_text()) | {"_indices_data_files": [{"filename": "indices.arrow"}]}
    (path / "state.json").write_text(json.dumps(state))
    assert "save it again after flatten_indices()" in refusal(path)


def test_a_repository_says_in_its_readme_which_files_are_which(tmp_path: Path) -> None:
    for name in ("main/train-00000-of-00001", "main/test-00000-of-00001", "socratic/all"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.parquet").touch()
    (tmp_path / "README.md").write_text(README)

    def names(*args: str | None) -> list[str]:
        return [file.relative_to(tmp_path).as_posix() for file in data_files(tmp_path, *args)]

    assert names() == ["main/train-00000-of-00001.parquet"]
    assert names("test") == ["main/test-00000-of-00001.parquet"]
    assert names(None, "socratic") == ["socratic/all.parquet"]
    assert "has no split 'test', it has train" in refusal(tmp_path, "test", "socratic")
    assert "has no subset 'plain', it has main, socratic; set subset" in refusal(tmp_path, None, "plain")


@pytest.mark.parametrize(
    ("names", "split", "chosen"),
    [
        (["train.jsonl", "test.jsonl"], None, ["train.jsonl"]),
        (["train.jsonl", "test.jsonl"], "test", ["test.jsonl"]),
        (["data/gsm8k_val.jsonl", "data/gsm8k_train.jsonl"], "validation", ["data/gsm8k_val.jsonl"]),
        (["train/a.parquet", "train/b.parquet", "test/a.parquet"], None, ["train/a.parquet", "train/b.parquet"]),
        (["data/easy-00000-of-00002.parquet", "data/easy-00001-of-00002.parquet"], "easy", [0, 1]),
        (["part1.jsonl", "part2.jsonl"], None, [0, 1]),
        (["dataset_infos.json", ".cache/train.json", "all.jsonl"], None, ["all.jsonl"]),
        (["contest.jsonl"], None, ["contest.jsonl"]),  # `test` is no word of it
    ],
)
def test_without_a_readme_the_words_in_names_and_folders_tell(
    names: list[str], split: str | None, chosen: list[Any]
) -> None:
    expected = [names[one] if isinstance(one, int) else one for one in chosen]
    assert choose(names, "", split, None, "here") == expected


@pytest.mark.parametrize(
    ("names", "split", "subset", "message"),
    [
        (["README.md", "a.csv"], None, None, "here: holds no data files; they end in .jsonl"),
        (["test.jsonl"], None, None, "here: has no split 'train', it has test; set split"),
        (["a.jsonl"], "test", None, "here: has no split 'test', it has no splits"),
        (
            ["train.jsonl", "train.parquet"],
            None,
            None,
            "has files of several formats (.jsonl, .parquet); name one file",
        ),
        (["train.jsonl"], None, "main", "here: has no subset 'main', neither in README.md nor as a folder"),
    ],
)
def test_what_cannot_be_chosen_is_refused_with_what_there_is(
    names: list[str], split: str | None, subset: str | None, message: str
) -> None:
    with pytest.raises(DataError) as refused:
        choose(names, "", split, subset, "here")
    assert message in str(refused.value)


def test_several_subsets_without_a_default_are_refused() -> None:
    names = ["main/train-0.parquet", "socratic/a.parquet"]
    with pytest.raises(DataError, match="has several subsets and no default; it has main, socratic; set subset"):
        choose(names, README.replace("  default: true\n", ""), None, None, "here")


def test_a_readme_that_is_no_yaml_is_passed_over() -> None:
    assert choose(["train.jsonl"], "---\nconfigs: [\n---\n", None, None, "here") == ["train.jsonl"]
    assert choose(["train.jsonl"], "# just words", None, None, "here") == ["train.jsonl"]


def test_one_file_has_no_splits(tmp_path: Path) -> None:
    assert data_files(tmp_path / "a.jsonl") == [tmp_path / "a.jsonl"]
    assert "is one file, which has no splits and no subsets" in refusal(tmp_path / "a.jsonl", "test")


def test_a_name_that_is_none_is_refused() -> None:
    assert "is named hf:OWNER/NAME or hf:OWNER/NAME@REVISION" in refusal(Path("hf:a/b/c"))
