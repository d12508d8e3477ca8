"""A disk that forgets what was not synced, tears what was being written, and is full at times.

`SimDisk` is the platter: it outlives processes. A process reaches it through a `Mount` (rollout.storage.Storage), whose
every operation is a place to die: before it, after it, or in the middle of a write. The mount of a dead process
refuses everything. What was written since the last sync has a drawn fate when its writer dies: kept, lost, torn (a
prefix is kept), or holed (a stretch in the middle is lost, what follows is kept).
"""

import errno
import random
from collections.abc import Callable

import pyarrow as pa
from faults import Faults
from virtual_loop import Crash, Process

from rollout.storage import Bytes, InUse

_PAGE = 64  # bytes that are lost together; small, so that records of a hundred bytes are torn in every way


class SimFile:
    """Bytes, and how many of them from the start are durable."""

    __slots__ = ("content", "synced", "writer")

    def __init__(self, writer: Process, content: bytes = b"") -> None:
        self.content = bytearray(content)
        self.synced = len(content)
        self.writer = writer
        """Who wrote what is not durable yet."""


class SimDisk:
    """Files by path, and the faults of the device."""

    def __init__(self, seed: int, clock: Callable[[], float], faults: Faults) -> None:
        self.files: dict[str, SimFile] = {}
        self.removed: dict[str, bytes] = {}
        """What was removed on purpose, for the checker: a run may forget what it needs no more."""
        self.locks: dict[str, Process] = {}
        self.full_from = self.full_until = 0.0
        """Virtual seconds between which every write fails."""
        self.faults = faults
        self.random = random.Random(seed)
        self._clock = clock

    @property
    def full(self) -> bool:
        return self.full_from <= self._clock() < self.full_until

    def settle(self, process: Process) -> None:
        """The process died: decide what becomes of what it wrote and did not sync."""
        for file in self.files.values():
            if file.writer is process and file.synced < len(file.content):
                self._settle(file)

    def _settle(self, file: SimFile) -> None:
        fate = self.random.choice(("kept", "lost", "torn", "holed"))
        self.faults.note(f"write {fate}")
        start, end = file.synced, len(file.content)
        if fate == "lost":
            del file.content[start:]
        elif fate == "torn":
            del file.content[self.random.randrange(start, end) :]
        elif fate == "holed":
            hole = self.random.randrange(start, end)
            size = min(_PAGE, end - hole)
            file.content[hole : hole + size] = bytes(size)
        file.synced = len(file.content)


class Mount:
    """The disk as one process sees it, from one folder down."""

    def __init__(self, disk: SimDisk, process: Process, prefix: str = "") -> None:
        self._disk = disk
        self._process = process
        self._prefix = prefix
        if not prefix:
            process.on_death.append(lambda: disk.settle(process))

    def __str__(self) -> str:
        return f"simulated disk, /{self._prefix}"

    @property
    def writer(self) -> str:
        return f"process {self._process.name}"

    def folder(self, name: str) -> "Mount":
        return Mount(self._disk, self._process, f"{self._prefix}{name}/")

    def lock(self, name: str) -> "_Lock":
        self._process.point()
        path = self._prefix + name
        holder = self._disk.locks.get(path)
        if holder and holder.alive and not holder.stopped:  # a stopped one's has lapsed, as over a network
            raise InUse(f"{path} is held by {holder.name}")
        self._disk.locks[path] = self._process
        return _Lock(self._disk, path, self._process)

    def create(self, name: str) -> "SimAppender":
        path = self._prefix + name
        self._writable(path)
        if path in self._disk.files:
            raise FileExistsError(path)
        self._disk.files[path] = SimFile(self._process)
        self._process.point()
        return SimAppender(self._disk, self._process, path)

    def append(self, name: str) -> "SimAppender":
        path = self._prefix + name
        if path not in self._disk.files:
            return self.create(name)
        self._process.point()
        return SimAppender(self._disk, self._process, path)

    def read(self, name: str) -> pa.Buffer:
        self._process.point()
        return pa.py_buffer(bytes(self._file(name).content))

    def size(self, name: str) -> int:
        self._process.point()
        return len(self._file(name).content)

    def names(self, folder: str = "") -> list[str]:
        self._process.point()
        start = f"{self._prefix}{folder}/" if folder else self._prefix
        below = (path[len(start) :] for path in self._disk.files if path.startswith(start))
        return sorted(name for name in below if "/" not in name)

    def truncate(self, name: str, size: int) -> None:
        self.replace(name, bytes(self._file(name).content[:size]))

    def replace(self, name: str, data: Bytes) -> None:
        """What others have open stays the old file, as after a rename."""
        path = self._prefix + name
        self._writable(path)
        self._disk.files[path] = SimFile(self._process, bytes(data))
        self._process.point()

    def remove(self, name: str) -> None:
        self._process.point()
        if file := self._disk.files.pop(self._prefix + name, None):
            self._disk.removed[self._prefix + name] = bytes(file.content)
        self._process.point()

    def _file(self, name: str) -> SimFile:
        try:
            return self._disk.files[self._prefix + name]
        except KeyError:
            raise FileNotFoundError(self._prefix + name) from None

    def _writable(self, path: str) -> None:
        self._process.point()
        if self._disk.full:
            self._disk.faults.note("disk full")
            raise OSError(errno.ENOSPC, "no space left on device", path)


class Excavation(Mount):
    """The disk as the checker sees it: also what was removed on purpose, where nothing has taken its place."""

    def __init__(self, disk: SimDisk, prefix: str = "") -> None:
        super().__init__(disk, Process("checker"), prefix)

    def folder(self, name: str) -> "Excavation":
        return Excavation(self._disk, f"{self._prefix}{name}/")

    def read(self, name: str) -> pa.Buffer:
        if (path := self._prefix + name) in self._disk.removed and path not in self._disk.files:
            return pa.py_buffer(self._disk.removed[path])
        return super().read(name)


class SimAppender:
    """Writes at the end of one file."""

    def __init__(self, disk: SimDisk, process: Process, path: str) -> None:
        self._disk = disk
        self._process = process
        self._path = path
        self._file = disk.files[path]
        self.size = len(self._file.content)

    def write(self, data: Bytes) -> None:
        data = bytes(data)
        try:
            self._process.point()
        except Crash:
            if self._process.points == self._process.dies_at and data:  # it dies in the middle of this write
                self._put(data[: self._disk.random.randrange(len(data))])
                self._disk.settle(self._process)
            raise
        if self._disk.full:
            self._disk.faults.note("short write")
            self._put(data[: self._disk.random.randrange(len(data) + 1)])
            raise OSError(errno.ENOSPC, "no space left on device", self._path)
        self._put(data)

    def sync(self) -> None:
        self._process.point()
        self._file.synced = len(self._file.content)
        self._process.point()

    def close(self) -> None: ...

    def _put(self, data: bytes) -> None:
        self._file.writer = self._process
        self._file.content += data
        self.size += len(data)


class _Lock:
    """A lock that is held."""

    def __init__(self, disk: SimDisk, path: str, process: Process) -> None:
        self._disk, self._path, self._process = disk, path, process

    def close(self) -> None:
        if self._disk.locks.get(self._path) is self._process:
            del self._disk.locks[self._path]
