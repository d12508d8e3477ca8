"""What a killed process leaves in /dev/shm: semaphores (`sem.mp-*`) and segments (`psm_*`) of multiprocessing.

A process that ends in good order removes its own. This finds them while the process lives, and removes them after.
"""

import contextlib
import os
from multiprocessing import resource_tracker
from pathlib import Path

_FOLDER = "/dev/shm"


def names_mapped_by(pid: int) -> set[str]:
    """Names in /dev/shm that a living process maps.

    By inode: a semaphore is mapped before it gets its name, and keeps another one in the process's maps.
    """
    fields = (line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    inodes = {int(field[4]) for field in fields if len(field) > 5 and field[5].startswith(f"{_FOLDER}/")}
    return {entry.name for entry in os.scandir(_FOLDER) if entry.inode() in inodes}


def unlink(name: str) -> None:
    """Remove a child's leftover by name, if it is still there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{_FOLDER}/{name}")
        # A spawned child shares its parent's tracker, which would warn of it at exit and try again.
        kind = "semaphore" if name.startswith("sem.") else "shared_memory"
        resource_tracker.unregister("/" + name.removeprefix("sem."), kind)
