import os
import subprocess
import sys

from rollout.memory_file import MemoryFile


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
