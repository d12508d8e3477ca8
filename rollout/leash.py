"""Ties a process to the one that spawned it, when a third party does the spawning and leaves no other place to.

An object in the arguments of the child is enough: it takes hold when the child unpickles it, at the end of its imports.
"""

import ctypes
import os
import signal
from collections.abc import Callable
from typing import Any

_PR_SET_PDEATHSIG = 1


def end_with_parent(number: int) -> None:
    """From now on the kernel sends this process a signal when the thread that spawned it ends; also a `preexec_fn`."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


class Leash:
    """Put it into what a spawned process is given: the kernel kills that process when the spawning thread ends."""

    def __reduce__(self) -> tuple[Callable[[int], "Leash"], tuple[int]]:
        return _leashed, (os.getpid(),)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Leash":
        return self

    def compute_hash(self) -> str:
        """What vLLM asks of things in its configuration, for its compile cache: a leash changes nothing there."""
        return ""


def _leashed(parent: int) -> Leash:
    """Take hold of this process, unless it is `parent`, which pickled the leash; exit when that is gone already."""
    if os.getpid() != parent:
        end_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    return Leash()
