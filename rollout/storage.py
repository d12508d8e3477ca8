"""Where the files of a run lie that decide something: a small seam, so that a simulator can tear them.

`LocalDisk` is the real one. Everything here blocks; callers on an event loop go through a thread.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias

import pyarrow as pa

Bytes: TypeAlias = bytes | bytearray | memoryview | pa.Buffer

_DRAFT = ".draft"  # what a file is called until it is whole


class InUse(RuntimeError):
    """Another live process holds the lock."""


class Closeable(Protocol):
    """Something held."""

    def close(self) -> None:
        """Let it go. Safe to call twice."""


class Appender(Closeable, Protocol):
    """A file that grows at its end."""

    @property
    def size(self) -> int:
        """Bytes that this file had when it was opened, and those written through this appender since."""

    def write(self, data: Bytes) -> None:
        """Append all of `data`; durable only after `sync`."""

    def sync(self) -> None:
        """Return once everything written is durable."""


class Storage(Protocol):
    """The files of one folder. Names are relative, with `/` between parts; folders are made as needed."""

    @property
    def writer(self) -> str:
        """Who writes through this, for messages: `process 17 on host`."""

    def lock(self, name: str) -> Closeable:
        """Hold a file until it is closed or this process dies.

        Raises:
            InUse: When another live process holds it, naming that process.
        """

    def append(self, name: str) -> Appender:
        """Open a file at its end; a missing one is created, durably."""

    def create(self, name: str) -> Appender:
        """Create a file, durably. Raises `FileExistsError` when there is one."""

    def read(self, name: str) -> pa.Buffer:
        """The whole file as it is now; what happens to the file later does not touch it. Or `FileNotFoundError`."""

    def size(self, name: str) -> int:
        """Bytes of the file of that name. Raises `FileNotFoundError`."""

    def names(self, folder: str = "") -> list[str]:
        """Sorted names of the files directly in a folder of this one; none when it does not exist."""

    def truncate(self, name: str, size: int) -> None:
        """Keep the first `size` bytes, durably."""

    def replace(self, name: str, data: Bytes) -> None:
        """Make this the whole file, durably and atomically: a crash leaves the old content or the new."""

    def remove(self, name: str) -> None:
        """Remove a file; a missing one is fine."""

    def folder(self, name: str) -> "Storage":
        """The same, below a sub-folder."""


class LocalDisk:
    """A folder of this machine, or of a file system that it has mounted."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        """The path, for messages."""
        return str(self._path)

    @property
    def writer(self) -> str:
        """See `Storage`."""
        return f"process {os.getpid()} on {socket.gethostname()}"

    def lock(self, name: str) -> Closeable:
        """See `Storage`."""
        path = self._path / name
        _make_folder(path.parent)
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "an unknown process"
            file.close()
            raise InUse(f"{path.parent} is being written by {owner}; stop that run first") from None
        file.truncate(0)
        file.write(f"{self.writer}\n")
        file.flush()
        return file

    def append(self, name: str) -> Appender:
        """See `Storage`."""
        path = self._path / name
        if path.exists():
            return _LocalAppender(path, 0)
        return self.create(name)

    def create(self, name: str) -> Appender:
        """See `Storage`."""
        path = self._path / name
        _make_folder(path.parent)
        appender = _LocalAppender(path, os.O_CREAT | os.O_EXCL)
        _sync_folder(path.parent)  # the name must survive too
        return appender

    def read(self, name: str) -> pa.Buffer:
        """See `Storage`. The file is mapped, not copied."""
        path = self._path / name
        if not path.stat().st_size:
            return pa.py_buffer(b"")  # nothing to map
        with pa.memory_map(str(path)) as file:
            return file.read_buffer()

    def size(self, name: str) -> int:
        """See `Storage`."""
        return (self._path / name).stat().st_size

    def names(self, folder: str = "") -> list[str]:
        """See `Storage`. Drafts that a crash left are no files yet."""
        path = self._path / folder
        if not path.is_dir():
            return []
        return sorted(file.name for file in path.iterdir() if file.is_file() and not file.name.endswith(_DRAFT))

    def truncate(self, name: str, size: int) -> None:
        """See `Storage`. The rest becomes a new file: cutting one that a reader has mapped would kill that reader."""
        self.replace(name, self.read(name)[:size])

    def replace(self, name: str, data: Bytes) -> None:
        """See `Storage`."""
        path = self._path / name
        _make_folder(path.parent)
        draft = path.with_name(path.name + _DRAFT)
        appender = _LocalAppender(draft, os.O_CREAT | os.O_TRUNC)
        try:
            appender.write(data)
            appender.sync()
        finally:
            appender.close()
        draft.rename(path)
        _sync_folder(path.parent)

    def remove(self, name: str) -> None:
        """See `Storage`."""
        (self._path / name).unlink(missing_ok=True)

    def folder(self, name: str) -> "LocalDisk":
        """See `Storage`."""
        return LocalDisk(self._path / name)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file of this machine in pieces; it appears under its name whole and durable, or not at all."""
    _make_folder(path.parent)
    draft = path.with_name(f"{path.name}.{os.getpid()}{_DRAFT}")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


class _LocalAppender:
    """A file descriptor; nothing is buffered here."""

    def __init__(self, path: Path, flags: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | flags, 0o644)
        self.size = os.fstat(self._file).st_size

    def write(self, data: Bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = os.write(self._file, rest)  # may be a part: the rest says why, e.g. that the disk is full
            rest = rest[written:]
            self.size += written

    def sync(self) -> None:
        os.fdatasync(self._file)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _make_folder(path: Path) -> None:
    """Create a folder and those above it, durably."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
