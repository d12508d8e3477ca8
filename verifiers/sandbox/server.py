"""The fork server: a warm interpreter that knows no secret and no test, and whose children are jailed processes.

Started by `verifiers.sandbox.jail` as `python -I -B -S` with an empty environment. It never reads what travels
between the trusted side and a jailed process: it receives the file descriptors, forks, and reports the end. Single
threaded, so that a fork is a copy of everything. Ends when its control socket does or its parent dies.
"""

import _sitebuiltins
import builtins
import gc
import importlib
import json
import os
import random
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from verifiers.sandbox import channel, command, kernel, landlock, lockdown, namespaces, script, seccomp, solver, tester
from verifiers.sandbox.records import Limits, Role, Tier

_PRELOADED = """
    abc array ast asyncio base64 bisect builtins calendar cmath collections collections.abc contextlib copy dataclasses
    datetime decimal enum fractions functools hashlib heapq html inspect io itertools json keyword locale math numbers
    operator os pprint queue random re statistics string struct sys textwrap threading time traceback types typing
    unicodedata unittest uuid weakref zlib
"""
_RUNS: dict[Role, Callable[[], None]] = {
    "solver": solver.main,
    "tester": tester.main,
    "script": script.main,
    "command": command.main,
}
_SWEEPS = 1_000
_FIRST_UID, _UIDS = 61184, 4336  # what systemd keeps for processes without an account


@dataclass(slots=True)
class _Server:
    """What every fork needs to know."""

    control: socket.socket
    walls: lockdown.Walls
    for_commands: lockdown.Walls | None
    """For processes that run other programs; tier A alone has them."""
    own_processes: int
    """A file descriptor of our process namespace in tier A."""
    children: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Process id and number of the run, by pidfd."""

    def serve(self, parent: int) -> None:
        """Fork on request and report each end, until the other side is gone."""
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(parent, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == parent:
                    return
                if fd != self.control.fileno():
                    poll.unregister(fd)
                    self.reap(fd)
                    continue
                request, fds, _, _ = socket.recv_fds(self.control, 4096, 8)
                if not request:
                    return
                pidfd = self.fork(json.loads(request), fds)
                if pidfd is not None:
                    poll.register(pidfd, select.POLLIN)

    def fork(self, request: dict[str, Any], fds: list[int]) -> int | None:
        """Start a jailed process and hand its pidfd out; returns the pidfd, or None when there is no process."""
        number = request["run"]
        try:
            child = namespaces.fork_inside(self.own_processes) if self.walls.tier == "A" else os.fork()
        except OSError as error:
            child = -1
            self.control.send(json.dumps({"run": number, "failed": f"no fork: {error}"}).encode())
        if child == 0:
            self.become(request["role"], Limits(**request["limits"]), fds)
        for fd in fds:
            os.close(fd)
        if child == -1:
            return None
        pidfd = os.pidfd_open(child)
        self.children[pidfd] = child, number
        socket.send_fds(self.control, [json.dumps({"run": number}).encode()], [pidfd])
        return pidfd

    def become(self, role: Role, limits: Limits, fds: list[int]) -> NoReturn:
        """Be a jailed process, to its end."""
        status = 70
        try:
            try:
                walls = self.for_commands if role == "command" else self.walls
                if walls is None:
                    raise OSError(f"commands run in tier A alone, and this is tier {self.walls.tier}")
                lockdown.lock(walls, limits, fds)
            except OSError as error:
                os.write(fds[3], channel.pack({"jailed": False, "why": str(error)}))
                os._exit(status)
            gc.enable()
            random.seed(0)  # the same program draws the same numbers
            _RUNS[role]()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                sys.stderr.write(end.code + "\n")
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except (OSError, ValueError, AttributeError):  # what foreign code made of it
                    pass
            os._exit(status & 0xFF)

    def reap(self, pidfd: int) -> None:
        """Report the end of a child, and end what it left behind."""
        child, number = self.children.pop(pidfd)
        os.close(pidfd)
        _, status, used = os.wait4(child, 0)
        if self.walls.tier == "D":
            self.sweep()
        end = {"run": number, "code": os.waitstatus_to_exitcode(status), "cpu_s": used.ru_utime + used.ru_stime}
        self.control.send(json.dumps(end).encode())

    def sweep(self) -> None:
        """Kill the processes that a run left behind in tier D, where it can start some; they became our children."""
        runs = {child for child, _ in self.children.values()}
        for _ in range(_SWEEPS):
            with open(f"/proc/self/task/{os.getpid()}/children") as file:
                left = [pid for pid in map(int, file.read().split()) if pid not in runs]
            if not left:
                return
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            for pid in left:
                os.waitpid(pid, 0)


def main(control_fd: int, parent: int, tier: Tier) -> None:
    """Prepare, say so, and serve.

    Args:
        control_fd: A sequenced-packet socket to the trusted side.
        parent: A pidfd of the trusted process.
        tier: How far children are shut in.
    """
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    control = socket.socket(fileno=control_fd)
    for name in _PRELOADED.split():
        importlib.import_module(name)
    for name in ("exit", "quit"):  # programs use them, and `-S` leaves them out
        setattr(builtins, name, _sitebuiltins.Quitter(name, ""))
    own_processes = -1
    uid = _FIRST_UID + os.getpid() % _UIDS if os.geteuid() == 0 else None
    try:
        with open("/proc/self/statm") as file:
            base = int(file.read().split()[0]) * resource.getpagesize()
        if tier == "A":
            own_processes = namespaces.enter()
        rules = landlock.ruleset() if tier in ("A", "B") else None
        calls = None if tier == "D" else seccomp.Filter(files=tier != "C")
        walls, for_commands = lockdown.Walls(tier, rules, calls, uid, base), None
        if tier == "A":
            calls = seccomp.Filter(files=True, commands=True)
            for_commands = lockdown.Walls(tier, None, calls, uid, base, commands=True)
        if tier == "D":
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    except OSError as error:
        control.send(json.dumps({"failed": str(error)}).encode())
        return
    gc.collect()
    gc.disable()
    gc.freeze()
    control.send(json.dumps({"ready": tier}).encode())
    try:
        _Server(control, walls, for_commands, own_processes).serve(parent)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the other side is gone
