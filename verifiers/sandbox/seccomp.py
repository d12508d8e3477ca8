"""The system calls that jailed code may make: a list; anything else fails with EPERM and is counted from outside.

The counting is seccomp's user notification: the kernel hands each denied call to whoever holds the *listener*, a file
descriptor that the jailed process gives away before it runs anything. Whoever held it could also allow calls, so it
is closed there at once, and the filter denies the ioctls that would answer.
"""

import ctypes
import errno
import fcntl
import os
import select
import struct
from collections.abc import Iterable
from typing import Literal, NamedTuple

from verifiers.sandbox import kernel, syscalls

_ALLOW, _ERRNO, _KILL, _NOTIFY = 0x7FFF0000, 0x00050000, 0x80000000, 0x7FC00000
_LOAD, _EQUAL, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
_STEP = struct.Struct("=HBBI")
_SELF = 0x5E1F5E1F  # stands for the process id until there is one
_NEW_LISTENER = 8
_SET_MODE_FILTER = 1
_NOTIFY_RECEIVE, _NOTIFY_SEND = 0xC0502100, 0xC0182101

_CLONE_THREAD = 0x10000
_CLONE_NAMESPACES = 0x7E020080
_AT_EMPTY_PATH = 0x1000
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_FCNTLS = (0, 1, 2, 3, 4, 1030, 1032)  # duplicate, flags, pipe size; no F_SETOWN, which has signals sent to others
_PRCTLS = (15, 16)  # the thread's name

_PLAIN = """
    read write readv writev pread64 pwrite64 close lseek fstat getcwd getdents64 mmap mprotect munmap mremap madvise brk
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend sigaltstack pause alarm
    setitimer getitimer poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd2 pipe pipe2
    dup dup2 dup3 sched_yield sched_getaffinity nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time
    times getrusage getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getpgid
    getsid uname sysinfo futex set_robust_list get_robust_list rseq set_tid_address exit exit_group arch_prctl getrandom
    getrlimit membarrier restart_syscall umask getcpu sendmsg recvmsg recvfrom sendto shutdown getsockname getpeername
    getsockopt
"""
"""sendto and sendmsg reach nobody: sockets are connected stream pairs, for which the kernel refuses an address."""
_FILES = "open openat stat lstat access faccessat faccessat2 newfstatat statx"
_QUIET = {
    "clone3": errno.ENOSYS,
    "readlink": errno.EINVAL,
    "readlinkat": errno.EINVAL,
}  # honest libraries ask for these
_COMMANDS = """
    execve fork vfork wait4 waitid kill tgkill mkdir mkdirat unlink unlinkat rename renameat renameat2 rmdir ftruncate
    chmod fchmod fchmodat fsync chdir fadvise64 statfs fstatfs copy_file_range sendfile symlink symlinkat utimensat
    fallocate flock getpriority sched_getparam sched_getscheduler setpgid
"""
"""What a command needs besides. Its processes are alone in their namespace, so they may signal each other."""
_PATHS = "stat lstat access faccessat faccessat2"


class _Step(NamedTuple):
    """One instruction of a filter: `struct sock_filter`."""

    code: int
    then: int
    otherwise: int
    value: int


class Filter:
    """A filter made ready before the fork: building it anew for every process would cost as much as installing it."""

    def __init__(self, files: bool, commands: bool = False) -> None:
        """Make it ready.

        Args:
            files: Whether files may be opened at all (something else says which).
            commands: Whether other programs may be run.

        Raises:
            OSError: When the architecture has no filter here.
        """
        arch = syscalls.architecture()
        if arch is None:
            raise OSError(errno.ENOSYS, f"seccomp: no system call numbers for {os.uname().machine}")
        self._number = syscalls.number("seccomp", arch) or 0
        self._counted, self._plain = (
            _packed(filter_for(arch, _SELF, files, commands, d)) for d in (_NOTIFY, _ERRNO | errno.EPERM)
        )

    def install(self) -> int | None:
        """Install it in this process for good. Needs no_new_privs.

        Returns:
            The listener, or None when the kernel has none to give: then denied calls fail uncounted.

        Raises:
            OSError: When the kernel has no filters.
        """
        try:
            return self._install(self._counted, _NEW_LISTENER)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.EINVAL):  # another listener above us; a kernel before 5.0
                raise
            self._install(self._plain, 0)
            return None

    def _install(self, code: bytes, flags: int) -> int:
        code = code.replace(struct.pack("=I", _SELF), struct.pack("=I", os.getpid()))
        buffer = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("@HP", len(code) // _STEP.size, ctypes.addressof(buffer))  # struct sock_fprog
        return kernel.syscall("seccomp", self._number, _SET_MODE_FILTER, flags, program)


def filter_for(arch: int, pid: int, files: bool, commands: bool, denied: int) -> list[_Step]:
    """The instructions. `denied` is the filter's answer to what is not on the list."""
    allow, refuse = _Step(_RETURN, 0, 0, _ALLOW), _Step(_RETURN, 0, 0, denied)
    enoent = _Step(_RETURN, 0, 0, _ERRNO | errno.ENOENT)
    steps = [_load(4), _Step(_EQUAL, 1, 0, arch), _Step(_RETURN, 0, 0, _KILL), _load(0)]

    def rule(name: str, body: Iterable[_Step]) -> None:
        number = syscalls.number(name, arch)
        if number is not None:
            body = list(body)
            steps.extend([_Step(_EQUAL, 0, len(body), number), *body])

    clones = [
        _argument(0),
        _Step(_ANY_BIT, 2, 0, _CLONE_NAMESPACES),
        _Step(_ANY_BIT, 0, 1, _CLONE_THREAD),
        allow,
        refuse,
    ]
    if commands:
        rule("clone", [_argument(0), _Step(_ANY_BIT, 0, 1, _CLONE_NAMESPACES), refuse, allow])
    for name in (_PLAIN + (_FILES if files else "") + (_COMMANDS if commands else "")).split():
        rule(name, [allow])
    for name, code in _QUIET.items():
        rule(name, [_Step(_RETURN, 0, 0, _ERRNO | code)])
    if not files:  # the import system asks for many paths; fstat is newfstatat with an empty one
        for name in _PATHS.split():
            rule(name, [enoent])
        rule("newfstatat", [_argument(3), _Step(_ANY_BIT, 0, 1, _AT_EMPTY_PATH), allow, enoent])
        rule("statx", [_argument(2), _Step(_ANY_BIT, 0, 1, _AT_EMPTY_PATH), allow, enoent])
    rule("clone", clones)
    for name, signal in (("kill", 1), ("tgkill", 2)):  # by SIGKILL it could pass for killed by the machine
        to_itself, by_sigkill = _Step(_EQUAL, 0, 2, pid), _Step(_EQUAL, 0, 1, 9)
        rule(name, [_argument(0), to_itself, _argument(signal), by_sigkill, refuse, allow])
    rule("ioctl", _one_of(1, _IOCTLS, allow, refuse))
    rule("fcntl", _one_of(1, _FCNTLS, allow, refuse))
    rule("prctl", _one_of(0, _PRCTLS, allow, refuse))
    rule("prlimit64", [_argument(2), _Step(_EQUAL, 0, 3, 0), _argument(2, 4), _Step(_EQUAL, 0, 1, 0), allow, refuse])
    stream_pair = [_argument(0), _Step(_EQUAL, 0, 4, 1), _argument(1), _Step(_AND, 0, 0, 0xF), _Step(_EQUAL, 0, 1, 1)]
    rule("socketpair", [*stream_pair, allow, refuse])
    return [*steps, refuse]


def refuse_next(listener: int) -> Literal["refused", "nothing", "over"]:
    """Take one denied call from the listener and answer it with EPERM. `over`: no process is left to refuse."""
    poll = select.poll()  # first, because some kernels wait for ever in the call below when nobody is left
    poll.register(listener, select.POLLIN)
    events = dict(poll.poll(0)).get(listener, 0)
    if not events & select.POLLIN:
        return "over" if events else "nothing"
    call = bytearray(80)  # struct seccomp_notif
    try:
        fcntl.ioctl(listener, _NOTIFY_RECEIVE, call)
        fcntl.ioctl(listener, _NOTIFY_SEND, struct.pack("=QqiI", *struct.unpack_from("=Q", call), 0, -errno.EPERM, 0))
    except OSError:  # its thread is gone, or asks again
        return "nothing"
    return "refused"


def _packed(steps: list[_Step]) -> bytes:
    return b"".join(_STEP.pack(*step) for step in steps)


def _load(offset: int) -> _Step:
    """Load a word of `struct seccomp_data`."""
    return _Step(_LOAD, 0, 0, offset)


def _argument(index: int, half: int = 0) -> _Step:
    """Load the low half of an argument, or with `half=4` the high one."""
    return _load(16 + 8 * index + half)


def _one_of(index: int, values: tuple[int, ...], allow: _Step, refuse: _Step) -> list[_Step]:
    """Allow a call whose argument (its low half) is one of a few."""
    tests = [_Step(_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_argument(index), *tests, refuse, allow]
