"""The process that scoring processes of one verifier are forked from: `python -m verifiers.template FD PARENT_PID`.

It loads the verifier once (sympy takes seconds), then forks in a millisecond or two. Commands come as packets on the
socket FD, answers go as frames to stdout, one per command, in order:

    {"load": name, "options": {…}}      → {"name", "version", "timeout_s", "slow_s", …} or {"refused": why}
    {"fork": true} and a socket         → {"pid": …}: a process that serves on the socket (`verifiers.worker`)
    {"bury": pid}                       → {"status": …}: it is killed; until then its number is nobody else's

It never runs a verifier itself, so nothing an answer does can stop it. What a scoring process started and left behind
becomes its child, and is killed when that process is buried. The end of the socket, SIGTERM and the death of the
parent end it with everything it forked.
"""

import array
import contextlib
import ctypes
import gc
import json
import os
import random
import resource
import signal
import socket
import sys
from hashlib import blake2b
from typing import Any, BinaryIO, NoReturn

from verifiers.catalogue import load
from verifiers.frames import write
from verifiers.protocol import Opened, Prepared, Verifier, slow_of, timeout_of
from verifiers.worker import describe, serve

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PACKET = 1 << 16
_MEMORY = 4 << 30  # bytes of its own that one scoring process may have: sympy can fill a machine


def main() -> None:
    """Serve until the socket ends, SIGTERM comes or the parent dies."""
    commands, parent = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    die_with_parent(parent)
    _libc().prctl(_PR_SET_CHILD_SUBREAPER, 1)
    answers = _private_stdout()
    forked: set[int] = set()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        _serve(commands, answers, forked, parent)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _sweep(spared=set())


def die_with_parent(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel end this process when `parent` dies; exit now if it is already gone."""
    _libc().prctl(_PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:
        sys.exit(f"verifiers: process {parent} that started this one is gone")


def _serve(commands: socket.socket, answers: BinaryIO, forked: set[int], parent: int) -> None:
    verifier: Verifier | None = None
    suffix = ""
    while True:
        command, sockets = _receive(commands)
        if command is None:
            return
        if "load" in command:
            verifier, answer = _load(command["load"], command["options"])
            suffix = made_with(command["options"])
            die_with_parent(parent, signal.SIGTERM)  # a load that hangs hears no SIGTERM, but has nothing to kill
            gc.collect()
            gc.freeze()  # pages that the collector does not touch stay shared
        elif "fork" in command:
            assert verifier is not None
            pid = _fork(verifier, sockets[0], commands, suffix)
            forked.add(pid)
            answer = {"pid": pid}
        else:
            answer = {"status": _bury(command["bury"], forked)}
        for sent in sockets:
            os.close(sent)
        write(answers, answer)


def _receive(commands: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    packet, ancillary, _, _ = commands.recvmsg(_PACKET, socket.CMSG_SPACE(array.array("i", [0]).itemsize))
    sockets = array.array("i")
    for _, _, data in ancillary:
        sockets.frombytes(data)
    return (json.loads(packet) if packet else None), list(sockets)


def _load(name: str, options: dict[str, Any]) -> tuple[Verifier | None, dict[str, Any]]:
    """Load and prepare a verifier; a failure is an answer as well."""
    try:
        verifier = load(name, options)
        if isinstance(verifier, Prepared):
            verifier.prepare()
    except (Exception, SystemExit) as error:
        return None, {"refused": describe(error)}
    threads = len(os.listdir("/proc/self/task"))
    identity = {"name": str(verifier.name), "version": str(verifier.version) + made_with(options)}
    isolation = str(getattr(verifier, "isolation", ""))
    times = {"timeout_s": timeout_of(verifier), "slow_s": slow_of(verifier)}
    return verifier, identity | times | {"threads": threads, "isolation": isolation}


def made_with(options: dict[str, Any]) -> str:
    """What options add to a verifier's version; nothing when there are none."""
    return f"+{blake2b(json.dumps(options, sort_keys=True).encode(), digest_size=3).hexdigest()}" if options else ""


def _fork(verifier: Verifier, connection: int, commands: socket.socket, suffix: str) -> int:
    template = os.getpid()
    pid = os.fork()
    if pid:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)  # by both, so that it is true for either before it goes on
        return pid
    _become_worker(verifier, connection, commands, template, suffix)


def _become_worker(
    verifier: Verifier, connection: int, commands: socket.socket, template: int, suffix: str
) -> NoReturn:
    """A process group of its own, to be killed with all that it starts; not a session: then the scheduler would not
    weigh its priority against the others'."""
    status = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _libc().prctl(_PR_SET_CHILD_SUBREAPER, 0)
        die_with_parent(template)
        commands.close()
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        random.seed()
        with socket.socket(fileno=connection).makefile("rwb") as stream:
            if isinstance(verifier, Opened):
                verifier.open()
            write(stream, {"ready": os.getpid()})  # type: ignore[arg-type]
            serve(verifier, stream, suffix)  # type: ignore[arg-type]
        status = 0
    finally:
        os._exit(status)


def _bury(pid: int, forked: set[int]) -> int:
    """Kill and reap a process, and whatever it left behind."""
    _kill_group(pid)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    forked.discard(pid)
    _sweep(spared=forked)
    return status


def _sweep(spared: set[int]) -> None:
    """Kill and reap all children but some, and theirs, which are children of this process then."""
    while strays := _children() - spared:
        for pid in strays:
            _kill_group(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # one that left its group is killed as well
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _children() -> set[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return set(map(int, file.read().split()))


def _private_stdout() -> BinaryIO:
    """Where answers go, out of the way of user code: its input is empty, its output goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return answers


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


if __name__ == "__main__":
    main()
