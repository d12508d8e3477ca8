"""A file in memory that other processes map by path and that no crash can leave behind.

The kernel frees a memfd when its last user is gone, so a SIGKILL leaks nothing, and a container's small /dev/shm
does not limit it. Others open it through /proc, which works within one host and one user.
"""

import functools
import mmap
import os

import numpy as np
from numpy.typing import NDArray


class MemoryFile:
    """Anonymous shared memory of a fixed size, in bytes."""

    def __init__(self, name: str, nbytes: int) -> None:
        self._fd = os.memfd_create(name)
        os.ftruncate(self._fd, nbytes)
        self.nbytes = nbytes

    @property
    def path(self) -> str:
        """Where any process of the same user on this host opens it, as long as this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def close(self) -> None:
        """Let go of it; mappings in other processes stay valid. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_inodes: dict[str, int] = {}


def mapped(path: str, nbytes: int) -> NDArray[np.uint8]:
    """A file's bytes to read and write, mapped once per file: to map one anew costs more than to copy it.

    One that was mapped before is still there when its owner has ended. Raises `ValueError` when the file is smaller.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if path not in _inodes:
            raise
        return _mapped(path, _inodes[path], nbytes)
    if found.st_size < nbytes:
        raise ValueError(f"the weight file {path} must hold {nbytes} bytes, got {found.st_size}; make it larger first")
    _inodes[path] = found.st_ino
    return _mapped(path, found.st_ino, nbytes)


def forget_mappings() -> None:
    """Let go of mapped files that nobody uses."""
    _mapped.cache_clear()
    _inodes.clear()


@functools.lru_cache(maxsize=4)  # versions alternate between two files, a third comes when one is late
def _mapped(path: str, inode: int, nbytes: int) -> NDArray[np.uint8]:
    with open(path, "r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), nbytes), np.uint8)
