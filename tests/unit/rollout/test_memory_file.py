import os
import subprocess
import sys

import pytest

from rollout.memory_file import MemoryFile, forget_mappings, mapped


def test_another_process_sees_what_is_written_and_nothing_lies_in_a_directory():
    file = MemoryFile("test", 16)
    with open(file.path, "r+b") as writer:
        writer.write(b"weights")
    read = "import sys; print(open(sys.argv[1], 'rb').read(7).decode())"
    assert subprocess.check_output([sys.executable, "-c", read, file.path], text=True, timeout=20).strip() == "weights"
    assert os.path.getsize(file.path) == 16
    path = file.path
    file.close()
    file.close()
    assert not os.path.exists(path)


def test_a_file_that_was_mapped_outlives_whoever_made_it():
    make = (
        "import sys; from rollout.memory_file import MemoryFile, mapped\n"
        "file = MemoryFile('test', 16); mapped(file.path, 16)[:] = 7; print(file.path, flush=True); sys.stdin.read()"
    )
    maker = subprocess.Popen([sys.executable, "-c", make], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    path = maker.stdout.readline().strip()
    before = mapped(path, 16)
    maker.communicate(timeout=20)
    assert not os.path.exists(path)
    assert mapped(path, 16) is before
    assert set(before) == {7}
    forget_mappings()
    with pytest.raises(FileNotFoundError):
        mapped(path, 16)
