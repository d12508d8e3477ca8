"""A file in memory that other processes map by path and that no crash can leave behind.

The kernel frees a memfd when its last user is gone, so a SIGKILL leaks nothing, and a container's small /dev/shm
does not limit it. Others open it through /proc, which works within one host and one user.
"""

import os


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
