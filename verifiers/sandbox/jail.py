"""Starts jailed processes. The trusted side of the wall; believes nothing that comes from the other.

One thread at a time. Waits for: the fork server to start, a process to be forked and to shut itself in, a frame from
it, its end. Every wait has a deadline; a process that passes its own is killed by pidfd, a server that is silent is
a `SandboxError`.
"""

import json
import os
import selectors
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from verifiers.sandbox.clock import SLICE_S, Clock
from verifiers.sandbox.records import Limits, Role, SandboxError, Tier
from verifiers.sandbox.run import Run

_START_S = 60.0  # to start Python and import the standard library's larger half
_ANSWER_S = 20.0  # to fork, to shut itself in, to be reaped: milliseconds, unless the machine is very busy
_ROOT = Path(__file__).resolve().parents[2]
_BOOT = (
    "import sys; sys.path.append(sys.argv[1]); from verifiers.sandbox.server import main; sys.path.pop(); "
    "main({control}, {parent}, {tier!r})"
)


class Jail:
    """A fork server of one tier, and the processes it started. Use it in a `with` block, or close it.

    It dies with the *thread* that made it (the kernel's rule), so make it in one that lasts.
    """

    def __init__(self, tier: Tier) -> None:
        """Start the server.

        Raises:
            SandboxError: When this machine does not allow this tier; says what was refused.
        """
        self.tier = tier
        self.clock = Clock()
        self._runs: dict[int, Run] = {}
        self._number = 0
        self._selector = selectors.DefaultSelector()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.pidfd_open(os.getpid())
        boot = _BOOT.format(control=theirs.fileno(), parent=parent, tier=tier)
        try:
            self._server = subprocess.Popen(
                [sys._base_executable, "-I", "-B", "-S", "-X", "utf8", "-c", boot, str(_ROOT)],  # type: ignore[attr-defined]
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), parent),
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(parent)
        self._selector.register(self._control, selectors.EVENT_READ)
        self._ready = False
        try:
            self._pump_until(lambda: self._ready, _START_S, "start")
        except BaseException:
            self.close()
            raise

    def start(self, role: Role, limits: Limits, stdin: bytes = b"") -> Run:
        """Start a jailed process and wait until it has shut itself in. It waits for its task then.

        Args:
            role: What it is to do.
            limits: What it may use.
            stdin: What it finds on standard input.

        Raises:
            SandboxError: When the server is gone or silent, or the process could not be shut in.
        """
        self._number += 1
        ours, theirs = socket.socketpair()
        (out, out_w), (err, err_w) = os.pipe(), os.pipe()
        given = _file(stdin)
        run = self._runs[self._number] = Run(self, limits, _ANSWER_S, ours, out, err)
        request = {"run": self._number, "role": role, "limits": asdict(limits)}
        try:
            socket.send_fds(self._control, [json.dumps(request).encode()], [given, out_w, err_w, theirs.fileno()])
        except OSError as error:
            self._forget(self._number)
            raise SandboxError(f"the fork server is gone: {error}") from None
        finally:
            theirs.close()
            for fd in (given, out_w, err_w):
                os.close(fd)
        for fd in run.fds():
            os.set_blocking(fd, False)
            self._selector.register(fd, selectors.EVENT_READ, run)
        self._pump_until(lambda: (run.jailed and run.pidfd >= 0) or run.ending is not None, _ANSWER_S, "fork")
        if not run.jailed:
            raise SandboxError(f"a process died while it shut itself in: {run.ending}; {run.output(run.err)[-300:]}")
        for fd in (run.listener, run.pidfd):
            if fd >= 0:
                self._selector.register(fd, selectors.EVENT_READ, run)
        return run

    def pump(self, until: float, sender: Run | None = None) -> None:
        """Wait for something to happen, at most until this moment of the clock and for a slice, and take it in."""
        if sender is not None:
            self._listen(sender, selectors.EVENT_READ | selectors.EVENT_WRITE)
        wait = min(max(0.0, until - self.clock.now()), SLICE_S)
        events = self._selector.select(wait)
        self.clock.now(waited_s=wait)
        if sender is not None:
            self._listen(sender, selectors.EVENT_READ)
        for key, _ in events:
            if key.data is None:
                self._hear()
            elif key.fd in self._selector.get_map() and key.data.take_in(key.fd) == "end":
                self._selector.unregister(key.fd)

    def close(self) -> None:
        """End the server and every process it started. Safe to call twice."""
        for number in list(self._runs):
            self._forget(number)
        self._control.close()
        self._selector.close()
        try:
            self._server.wait(2.0)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait(_ANSWER_S)

    def __enter__(self) -> "Jail":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _listen(self, run: Run, events: int) -> None:
        if run.ending is None and run.socket in self._selector.get_map():
            self._selector.modify(run.socket, events, run)

    def _hear(self) -> None:
        """A word from the server."""
        try:
            text, fds, _, _ = socket.recv_fds(self._control, 4096, 1)
        except ConnectionResetError:
            text, fds = b"", []
        if not text:
            raise SandboxError("the fork server died")
        word: dict[str, Any] = json.loads(text)
        if "ready" in word:
            self._ready = True
        elif "failed" in word:
            raise SandboxError(f"the fork server of tier {self.tier} failed: {word['failed']}")
        elif fds:
            self._runs[word["run"]].pidfd = fds[0]
        else:
            self._runs[word["run"]].ended(word["code"], word["cpu_s"])
            self._forget(word["run"])

    def _forget(self, number: int) -> None:
        """Close what we hold of a run."""
        run = self._runs.pop(number)
        for fd in (*run.fds(), run.pidfd):
            if fd >= 0 and fd in self._selector.get_map():
                self._selector.unregister(fd)
        run.socket.close()
        for fd in (run.out, run.err, run.listener, run.pidfd):
            if fd >= 0:
                os.close(fd)
        run.listener = run.pidfd = -1

    def _pump_until(self, done: Any, seconds: float, what: str) -> None:
        deadline = self.clock.now() + seconds
        while not done():
            if self.clock.now() >= deadline:
                raise SandboxError(f"the fork server of tier {self.tier} did not {what} within {seconds:g} s")
            self.pump(deadline)


def _file(content: bytes) -> int:
    """A file that only its holder sees, at its beginning."""
    if not content:
        return os.open(os.devnull, os.O_RDONLY)
    fd = os.memfd_create("input")
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
