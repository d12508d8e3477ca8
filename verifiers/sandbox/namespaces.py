"""Tier A's world: no network, no other process, no file but the system's programs and libraries, read only."""

import os
import signal

from verifiers.sandbox import kernel, landlock

_STAGE = "/proc"  # where the new root is mounted while it is built: a folder that is always there and holds no library
_KEPT_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC | kernel.MS_NOATIME


def enter() -> int:
    """Move this process into namespaces of its own. Goes on in a child; the parent only waits for it, and dies with it.

    Root needs no user namespace; anybody else gets one in which only their own uid is mapped.

    Returns:
        A file descriptor of our process namespace, for `fork_inside`.

    Raises:
        OSError: When the kernel, or the container around us, does not allow it.
    """
    uid, gid = os.geteuid(), os.getegid()
    flags = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWNET | kernel.CLONE_NEWUTS | kernel.CLONE_NEWPID
    kernel.unshare(flags if uid == 0 else flags | kernel.CLONE_NEWUSER)
    if uid != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    child = os.fork()
    if child:
        os.closerange(3, 256)  # the control channel ends when the child's copy does
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    _new_root()
    return own


def fork_inside(own: int) -> int:
    """`os.fork` into a process namespace of the child's own, which is empty but for the child and ends with it.

    Args:
        own: A file descriptor of the caller's own process namespace.
    """
    kernel.unshare(kernel.CLONE_NEWPID)
    child = -1
    try:
        child = os.fork()
    finally:
        if child != 0:
            kernel.setns(own, kernel.CLONE_NEWPID)
    return child


def mount_scratch(megabytes: int) -> None:
    """Give the calling process, which has the root's rights here, a folder of its own to write in."""
    kernel.unshare(kernel.CLONE_NEWNS)
    options = f"size={megabytes}m,mode=1777"
    kernel.mount("tmpfs", landlock.SCRATCH, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    os.chdir(landlock.SCRATCH)


def _new_root() -> None:
    """Leave a tree that holds only what is readable."""
    kernel.mount("none", "/", "none", kernel.MS_REC | kernel.MS_PRIVATE)
    paths = [*landlock.PROGRAMS, *landlock.readable()]
    kernel.mount("tmpfs", _STAGE, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,mode=755")
    for path in paths:
        _show(os.path.realpath(path), _STAGE + path)
    for path in sorted({hidden for shown in paths for hidden in landlock.installed(_STAGE + shown)}):
        kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_RDONLY, "size=4k,mode=555")
    os.mkdir(_STAGE + landlock.SCRATCH)
    os.chdir(_STAGE)
    kernel.pivot_root_here()
    kernel.mount(
        "none", "/", "none", kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
    )


def _show(source: str, target: str) -> None:
    """Bind a file or folder into the new tree, read only."""
    if os.path.exists(target):
        return  # inside a folder that is shown already
    if os.path.isdir(source):
        os.makedirs(target, 0o755)
    else:
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        open(target, "x").close()
    kernel.mount(source, target, "none", kernel.MS_BIND | kernel.MS_REC)
    kept = os.statvfs(target).f_flag & _KEPT_FLAGS  # a user namespace may not take these away
    kernel.mount("none", target, "none", kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kept)
