import errno
from pathlib import Path

import pytest

from trainer.directories import NotWritten, atomic_directory


def write_half(path: Path) -> None:
    with atomic_directory(path) as draft:
        (draft / "file").write_text("new")
        raise RuntimeError("half way")


def test_a_failed_writer_leaves_the_old_directory_and_no_draft(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "out") as draft:
        (draft / "file").write_text("old")
    with pytest.raises(RuntimeError, match="half way"):
        write_half(tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "old"


def test_a_new_directory_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with atomic_directory(tmp_path / "out") as draft:
            (draft / name).touch()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b"]


def test_what_killed_writers_left_is_gone_after_the_next_one(tmp_path: Path) -> None:
    for name in (".out.draft", ".out.old"):  # killed while it wrote; killed between the two renames
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    with atomic_directory(tmp_path / "out") as draft:
        assert not list(draft.iterdir())
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_disk_that_refuses_is_told_with_what_is_free_and_leaves_what_was_there(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "out") as draft:
        (draft / "file").write_text("old")
    with (
        pytest.raises(NotWritten, match=r"out could not be written \(.*No space left.*\): [\d,]+ bytes are free there"),
        atomic_directory(tmp_path / "out") as draft,
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "old"
