"""Takes everything from a freshly forked process that it does not need. Runs in that process, before foreign code."""

import array
import fcntl
import os
import resource
import signal
import socket
from dataclasses import dataclass

from verifiers.sandbox import channel, kernel, landlock, namespaces, seccomp
from verifiers.sandbox.records import Limits, Tier

_FILES = 64
_TASKS = 128  # tasks of one uid; only counted where the uid is ours alone


@dataclass(frozen=True, slots=True)
class Walls:
    """What a fork server makes ready for all its processes."""

    tier: Tier
    """How far they are shut in."""
    rules: int | None
    """Landlock's rules, in tiers A and B."""
    calls: seccomp.Filter | None
    """System calls that they may make; None in tier D."""
    uid: int | None
    """Whom they become, when the server is root."""
    base: int
    """Bytes of address space that the interpreter takes before anything runs."""
    commands: bool = False
    """Whether other programs are run, with a folder to write in; for tier A."""


def lock(walls: Walls, limits: Limits, fds: list[int]) -> None:
    """Shut this process in, and say so to the trusted side: `{"jailed": true}`, with the listener if there is one.

    Args:
        walls: How far.
        limits: What it may use.
        fds: What becomes standard input, output, error and the channel; every other file is closed.

    Raises:
        OSError: When any part of it is refused; nothing may run then.
    """
    os.setsid()
    if walls.commands:
        namespaces.mount_scratch(limits.memory_mb)
    if walls.uid is not None:
        os.setgroups([])
        os.setresgid(walls.uid, walls.uid, walls.uid)
        os.setresuid(walls.uid, walls.uid, walls.uid)
    if walls.tier == "A":
        kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of uid, which clears it
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    _limit(limits, walls)
    if walls.commands:
        landlock.restrict(landlock.ruleset(commands=True))  # made here: the scratch folder is this process's own
    elif walls.rules is not None:
        landlock.restrict(walls.rules)
    _keep_only(fds)
    _report(walls.calls.install() if walls.calls else None)


def _limit(limits: Limits, walls: Walls) -> None:
    memory = limits.memory_mb << 20
    # Programs such as node reserve far more addresses than they use; what they may write is limited then.
    space = (resource.RLIMIT_DATA, memory) if walls.commands else (resource.RLIMIT_AS, walls.base + memory)
    for what, most in (
        space,
        # For what nobody watches. A limit of the kernel's counts ticks, more than were used on a busy machine: an end
        # by the very limit could pass for one by the machine.
        (resource.RLIMIT_CPU, int(limits.cpu_s) + 1),
        (resource.RLIMIT_FSIZE, memory if walls.commands else 0),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(what, (most, most))
    if walls.uid is not None or walls.tier == "D":
        resource.setrlimit(resource.RLIMIT_NPROC, (_TASKS, _TASKS))


def _keep_only(fds: list[int]) -> None:
    """Move `fds` to 0, 1, …, in order, and close everything else."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, len(fds)) for fd in fds]  # out of the way of each other
    for place, fd in enumerate(high):
        os.dup2(fd, place)
    os.closerange(len(fds), 4096)


def _report(listener: int | None) -> None:
    message = channel.pack({"jailed": True})
    if listener is None:
        os.write(channel.CHILD_FD, message)
        return
    with socket.socket(fileno=os.dup(channel.CHILD_FD)) as parent:
        parent.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))])
    os.close(listener)
