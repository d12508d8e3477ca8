import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.storage import InUse, LocalDisk, Storage, whole_file


@pytest.fixture
def disk(tmp_path: Path) -> LocalDisk:
    return LocalDisk(tmp_path / "runs" / "one")


def put(disk: Storage, name: str, *pieces: bytes) -> None:
    appender = disk.append(name)
    for piece in pieces:
        appender.write(piece)
    appender.sync()
    appender.close()


def get(disk: Storage, name: str) -> bytes:
    return bytes(disk.read(name))


def test_what_is_appended_is_there_and_the_next_appender_goes_on_after_it(disk: LocalDisk):
    put(disk, "log", b"one", b"")
    appender = disk.append("log")
    assert appender.size == 3
    appender.write(memoryview(b"two"))
    assert (appender.size, disk.size("log"), get(disk, "log")) == (6, 6, b"onetwo")
    appender.close()
    appender.close()


def test_a_file_is_created_only_once(disk: LocalDisk):
    disk.create("x").close()
    with pytest.raises(FileExistsError):
        disk.create("x")
    assert get(disk, "x") == b""


def test_what_is_missing_is_said_to_be_missing(disk: LocalDisk):
    for ask in (disk.read, disk.size):
        with pytest.raises(FileNotFoundError):
            ask("nothing")
    assert disk.names() == disk.names("nowhere") == []
    disk.remove("nothing")


def test_names_are_those_of_the_files_directly_in_a_folder(disk: LocalDisk):
    for name in ("b", "a", "deep/c"):
        put(disk, name, b"x")
    assert disk.names() == ["a", "b"]
    assert disk.names("deep") == disk.folder("deep").names() == ["c"]
    assert get(disk.folder("deep"), "c") == b"x"
    assert str(disk.folder("deep")) == f"{disk}/deep"


def test_a_reader_keeps_what_it_has_read_when_the_file_is_cut_replaced_or_removed(disk: LocalDisk):
    whole = os.urandom(3 * 4096)
    put(disk, "file", whole)
    held = disk.read("file")
    disk.truncate("file", 10)
    assert (bytes(held), get(disk, "file")) == (whole, whole[:10])
    held = disk.read("file")
    disk.replace("file", b"new")
    assert (bytes(held), get(disk, "file")) == (whole[:10], b"new")
    held = disk.read("file")
    disk.remove("file")
    assert (bytes(held), disk.names()) == (b"new", [])


def test_a_replacement_that_fails_leaves_the_old_file_and_no_other_name(tmp_path: Path):
    disk = LocalDisk(tmp_path)
    disk.replace("file", b"old")
    (tmp_path / "file.draft").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as failed:
        disk.replace("file", b"new")
    assert failed.value.errno == errno.ENOSPC
    assert (get(disk, "file"), disk.names()) == (b"old", ["file"])


def test_a_file_written_in_pieces_is_seen_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "deep" / "file"
    with whole_file(path) as file:
        file.write(b"one ")
        assert not path.exists()
        file.write(b"two")
    assert path.read_bytes() == b"one two"
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines([b"half of the next", "no bytes"])
    assert {name.name: name.read_bytes() for name in path.parent.iterdir()} == {"file": b"one two"}


def test_a_lock_is_held_by_one_and_says_who_has_it(disk: LocalDisk):
    held = disk.lock("lock")
    with pytest.raises(InUse, match=f"{disk} is being written by process {os.getpid()} on .*stop that run first"):
        disk.lock("lock")
    held.close()
    disk.lock("lock").close()


def test_a_disk_that_takes_a_part_of_a_write_gets_the_rest_or_the_error(tmp_path: Path):
    script = """
        import resource, sys
        from pathlib import Path
        from rollout.storage import LocalDisk

        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        appender = LocalDisk(Path(sys.argv[1])).append("file")
        appender.write(bytes(900))
        try:
            appender.write(bytes(900))
        except OSError as error:
            print(error.strerror, appender.size)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert told == "File too large 1000\n"
    assert LocalDisk(tmp_path).size("file") == 1000


NAMES = st.sampled_from(["a", "b", "c"])
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["append", "create", "replace"]), NAMES, st.binary(max_size=20)),
    st.tuples(st.just("truncate"), NAMES, st.integers(0, 10)),
    st.tuples(st.sampled_from(["read", "size", "remove"]), NAMES),
)


def done(disk: Storage, operation: tuple) -> object:
    """What an operation answers, or the exception that it raises."""
    match operation:
        case ("append" | "create", name, data):
            try:
                appender = getattr(disk, operation[0])(name)
            except FileExistsError as error:
                return type(error)
            appender.write(data)
            appender.sync()
            appender.close()
            return appender.size
        case (what, *arguments):
            try:
                answer = getattr(disk, what)(*arguments)
            except FileNotFoundError as error:
                return type(error)
            return bytes(answer) if what == "read" else answer
    raise AssertionError(operation)


@settings(max_examples=60)
@given(operations=st.lists(OPERATIONS, max_size=12))
def test_the_disk_in_memory_that_other_tests_use_answers_as_the_real_one(tmp_path_factory, memory_storage, operations):
    real, fake = LocalDisk(tmp_path_factory.mktemp("disk")), memory_storage()
    for operation in operations:
        assert done(real, operation) == done(fake, operation)
        assert real.names() == fake.names()
