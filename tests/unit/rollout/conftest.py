"""Hand-made groups, and a disk in memory that dies and fills up, for the tests of the rollout package."""

import errno
import os
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest

from rollout.records import GroupKey, Prompt, Rollout, RolloutGroup, Segment
from rollout.storage import Bytes
from verifiers.records import Verdict


def make_group(
    prompt_id: str = "p0",
    rewards: Sequence[float | None] = (1.0, 0.0),
    *,
    epoch: int = 0,
    versions: Sequence[int] = (0, 0),
    tokens: Sequence[Sequence[int]] | None = None,
    answers: Sequence[str] | None = None,
    truncated: bool = False,
    purpose: str = "train",
    tag: str = "",
) -> RolloutGroup:
    """Siblings with these rewards (None = no verdict); each has one token per entry of `versions`."""
    prompt = Prompt(prompt_id, f"text of {prompt_id}", (7, 8, 9), "ref", tag=tag)
    rollouts = []
    for i, reward in enumerate(rewards):
        ids = tokens[i] if tokens else [100 + i] * len(versions)
        status = "error" if reward is None else "correct" if reward > 0.5 else "wrong"
        segment = Segment(
            np.array(ids, np.int32),
            -0.1 * np.arange(1, len(ids) + 1, dtype=np.float32),
            np.array(versions, np.int32),
            "length" if truncated else "stop",
        )
        read = answers[i] if answers else f"answer {i}"
        reason = {
            "expected": "ref",
            "rule": "equal",
            "milliseconds": 1.5,
            "steps": (0.5,) * i,
            "facts": {"odd": 1.0 * i},
        }
        verdict = Verdict(reward, status, "exact", "1", {"answer": reward or 0.0}, f"note {i}", read, **reason)
        fate = "failed" if reward is None else "truncated" if truncated else "finished"
        mask = np.ones(len(ids), np.bool_)
        rollouts.append(Rollout(prompt_id, i, np.array([7, 8, 9], np.int32), segment, mask, verdict, fate))
    return RolloutGroup(GroupKey(purpose, epoch, prompt_id), prompt, tuple(rollouts))


@pytest.fixture(name="make_group", scope="session")
def make_group_fixture() -> Callable[..., RolloutGroup]:
    return make_group


class Crash(OSError):
    """The process that uses a `MemoryStorage` is dead."""


class MemoryFile:
    """Bytes, and how many of them are durable."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = bytearray(content)
        self.synced = len(content)


class MemoryStorage:
    """A `rollout.storage.Storage` as one process sees it. It dies after `lives` operations, in the middle of a write if
    that is where it is; and its disk is full after `room` bytes.
    """

    def __init__(self, files: dict[str, MemoryFile] | None = None, lives: int = 1 << 60, room: int = 1 << 60) -> None:
        self.files = {} if files is None else files
        self.lives = lives
        self.room = room
        self.operations = 0

    def __str__(self) -> str:
        return "memory"

    @property
    def writer(self) -> str:
        return f"process {os.getpid()} on this machine"

    def after_crash(self, kept: bool) -> "MemoryStorage":
        """What another process finds; what was not synced is `kept` or lost."""
        for file in self.files.values():
            if not kept:
                del file.content[file.synced :]
        return MemoryStorage(self.files)

    def lock(self, name: str) -> "MemoryAppender":
        self.step()
        return MemoryAppender(self, MemoryFile())

    def append(self, name: str) -> "MemoryAppender":
        return MemoryAppender(self, self.files[name]) if name in self.files else self.create(name)

    def create(self, name: str) -> "MemoryAppender":
        self.step()
        if name in self.files:
            raise FileExistsError(name)
        self.files[name] = MemoryFile()
        return MemoryAppender(self, self.files[name])

    def read(self, name: str) -> pa.Buffer:
        self.step()
        return pa.py_buffer(bytes(self.find(name).content))

    def size(self, name: str) -> int:
        self.step()
        return len(self.find(name).content)

    def names(self, folder: str = "") -> list[str]:
        self.step()
        start = f"{folder}/" if folder else ""
        below = (name.removeprefix(start) for name in self.files if name.startswith(start))
        return sorted(name for name in below if "/" not in name)

    def truncate(self, name: str, size: int) -> None:
        self.replace(name, bytes(self.find(name).content[:size]))

    def replace(self, name: str, data: Bytes) -> None:
        self.step()
        if self.room < len(bytes(data)):
            raise OSError(errno.ENOSPC, "no space left on device", name)
        self.files[name] = MemoryFile(bytes(data))

    def remove(self, name: str) -> None:
        self.step()
        self.files.pop(name, None)

    def folder(self, name: str) -> "MemoryStorage":
        raise NotImplementedError

    def find(self, name: str) -> MemoryFile:
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]

    def step(self) -> None:
        self.operations += 1
        if self.operations > self.lives:
            raise Crash(f"dead after {self.lives} operations")


class MemoryAppender:
    def __init__(self, storage: MemoryStorage, file: MemoryFile) -> None:
        self._storage, self._file = storage, file
        self.size = len(file.content)

    def write(self, data: Bytes) -> None:
        data = bytes(data)
        try:
            self._storage.step()
        except Crash:
            if self._storage.operations == self._storage.lives + 1:
                self._file.content += data[: len(data) // 2]
            raise
        written = data[: max(0, self._storage.room)]
        self._file.content += written
        self._storage.room -= len(written)
        self.size += len(written)
        if len(written) < len(data):
            raise OSError(errno.ENOSPC, "no space left on device")

    def sync(self) -> None:
        self._storage.step()
        self._file.synced = len(self._file.content)

    def close(self) -> None: ...


@pytest.fixture(name="memory_storage", scope="session")
def memory_storage_fixture() -> type[MemoryStorage]:
    return MemoryStorage
