"""Calls into the kernel that Python has no function for. Each raises OSError with the call's name."""

import ctypes
import os
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_NOATIME, MS_BIND, MS_REC, MS_PRIVATE = (
    *(1, 2, 4, 8, 32, 1024, 4096, 16384, 1 << 18),
)
MNT_DETACH = 2

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITIES_V3 = 0x20080522


def syscall(what: str, number: int, *arguments: Any) -> int:
    """A system call by number."""
    return _checked(what, _libc.syscall(ctypes.c_long(number), *arguments))


def prctl(option: int, value: int) -> None:
    """prctl(2) with one value."""
    _checked(f"prctl({option})", _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def unshare(flags: int) -> None:
    """unshare(2)."""
    _checked("unshare", _libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    """setns(2)."""
    _checked("setns", _libc.setns(fd, kind))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2)."""
    words = (source.encode(), target.encode(), kind.encode())
    _checked(f"mount {target}", _libc.mount(*words, ctypes.c_ulong(flags), options.encode()))


def pivot_root_here() -> None:
    """Make the working directory the root, and let go of the old one."""
    syscall("pivot_root", _PIVOT_ROOT[os.uname().machine], b".", b".")
    _checked("umount2", _libc.umount2(b".", MNT_DETACH))
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every capability of this process for good."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    syscall("capset", _CAPSET[os.uname().machine], header, (ctypes.c_uint32 * 6)())


def _checked(what: str, result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result
