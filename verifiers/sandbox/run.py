"""One jailed process, seen from the trusted side: what it says, prints, tries and how it ended."""

import json
import os
import signal
import socket
from collections import deque
from typing import Any, Literal, Protocol

from verifiers.sandbox import channel, seccomp
from verifiers.sandbox.clock import SLICE_S, Clock, Stopwatch
from verifiers.sandbox.records import Cause, Ending, Limits, SandboxError, Tier

_MAX_DENIED = 2_000  # refusing a call costs the trusted side time
_MAX_UNREAD = 1  # a process is asked one thing at a time
_PIECE = 1 << 16
_PATIENCE = 2  # times its wall limit, for a process that waits for a processor


class Ended(Exception):
    """The process ended while we waited for it to say something; `Run.ending` says how."""


class Pump(Protocol):
    """Moves what there is to move, for every run; `verifiers.sandbox.jail.Jail` is one."""

    tier: Tier
    clock: Clock

    def pump(self, until: float, sender: "Run | None" = None) -> None:
        """Wait for something to happen, at most until this moment of the clock and for a slice; room to send counts."""
        ...


class Run:
    """A process from fork to end. `Jail.start` makes them; close each, or use it in a `with` block."""

    def __init__(self, jail: Pump, limits: Limits, answer_s: float, sock: socket.socket, out: int, err: int) -> None:
        self._jail, self.limits, self._answer_s = jail, limits, answer_s
        self.socket, self.out, self.err = sock, out, err
        self.pidfd = self.listener = -1
        self.printed = {out: bytearray(), err: bytearray()}
        self.denied = 0
        """System calls that were refused so far."""
        self.jailed = False
        """Whether it said that it is shut in; before, nothing foreign runs in it."""
        self.ending: Ending | None = None
        """How it ended; None while it lives."""
        self._data, self._frames = bytearray(), deque[Any]()
        self._killed: Cause | None = None
        self._detail = ""
        self._watch = Stopwatch(jail.clock)
        self._over_since: float | None = None  # from then on only the fork server's word is awaited

    def send(self, message: Any) -> None:
        """Say something to it; its time runs from now on. Raises `Ended` when it does not listen any more."""
        data = memoryview(channel.pack(message))
        self._watch.go()
        while data:
            if self.ending is not None:
                raise Ended
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                self._step(self)
            except OSError:
                self.wait()
                raise Ended from None

    def receive(self) -> Any:
        """What it says next. Raises `Ended` when it ends instead, or is killed for its time."""
        while not self._frames:
            if self.ending is not None:
                raise Ended
            self._step()
        return self._frames.popleft()

    def rest(self) -> None:
        """Its time does not run until it is asked again."""
        self._watch.stop()

    @property
    def own_s(self) -> float:
        """Seconds of its wall limit that it has used."""
        return self._watch.own_s

    @property
    def unread(self) -> bool:
        """Whether it said something that nobody received."""
        return bool(self._frames)

    def wait(self) -> Ending:
        """Wait for its end, by its deadline."""
        while self.ending is None:
            self._step()
        return self.ending

    def close(self) -> Ending:
        """End it now, if it has not ended."""
        if self.ending is None:
            self.kill("wall")
        return self.wait()

    def output(self, fd: int) -> str:
        """What it printed, as text."""
        return self.printed[fd].decode("utf-8", "replace")

    def kill(self, cause: Cause, detail: str = "") -> None:
        """SIGKILL it from outside; it ends soon after."""
        if self._killed is None and self.pidfd >= 0:
            self._killed, self._detail = cause, detail
            self._over_since = self._over_since or self._jail.clock.now()
            try:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended meanwhile

    def ended(self, code: int, cpu_s: float) -> None:
        """The fork server says that it is gone: read what is left, and remember how."""
        for fd in self.fds():
            while self.take_in(fd) == "more":
                pass
        self._watch.stop()
        self.ending = Ending(self._cause(code, cpu_s), code, cpu_s, self._detail)

    def _cause(self, code: int, cpu_s: float) -> Cause:
        killed = code == -signal.SIGKILL
        if self._killed is not None and (killed or self._killed not in ("wall", "cpu", "starved")):
            return self._killed  # else it was quicker than we
        if killed and cpu_s > self.limits.cpu_s - 0.1:
            return "cpu"
        if killed and self._jail.tier != "D":
            return "outside"  # the jail does not let it kill itself
        return "signal" if code < 0 else "exit"

    def fds(self) -> list[int]:
        """What to poll."""
        fds = [self.socket.fileno(), *self.printed, self.listener]
        return [fd for fd in fds if fd >= 0]

    def take_in(self, fd: int) -> Literal["more", "nothing", "end"]:
        """Take in what one of our descriptors has: more may come, nothing was there, or nothing ever will be."""
        if fd == self.pidfd:  # it has ended, and waits to be reaped
            self._watch.stop()
            self._over_since = self._over_since or self._jail.clock.now()
            return "end"
        if fd == self.listener:
            outcome = seccomp.refuse_next(fd)
            self.denied += outcome == "refused"
            if self.denied > _MAX_DENIED:
                self.kill("denied")
            return "more" if outcome == "refused" else "end" if outcome == "over" else "nothing"
        try:
            piece = self._read_channel() if fd == self.socket.fileno() else os.read(fd, _PIECE)
        except BlockingIOError:
            return "nothing"
        except OSError:
            return "end"
        if fd in self.printed:
            self._printed(fd, piece)
        return "more" if piece else "end"

    def _printed(self, fd: int, piece: bytes) -> None:
        room = (self.limits.output_kb << 10) - sum(map(len, self.printed.values()))
        self.printed[fd] += piece[:room]
        if len(piece) > room:
            self.kill("output", f"printed more than {self.limits.output_kb} KiB")

    def _read_channel(self) -> bytes:
        if self.jailed:
            piece = self.socket.recv(_PIECE)  # without room for file descriptors: the kernel drops any that come along
        else:
            piece, fds, _, _ = socket.recv_fds(self.socket, _PIECE, 1)
            self.listener = fds[0] if fds else -1
        self._data += piece
        while len(self._data) >= channel.HEADER.size:
            (size,) = channel.HEADER.unpack_from(self._data)
            if size > channel.MAX_FRAME:
                self._refuse(f"its answer is larger than {channel.MAX_FRAME >> 20} MiB")
                break
            end = channel.HEADER.size + size
            if len(self._data) < end:
                break
            try:
                frame = json.loads(bytes(self._data[channel.HEADER.size : end]))
            except (ValueError, RecursionError):
                self._refuse("it wrote something that is no answer")
                break
            del self._data[:end]
            self._take(frame)
        return piece

    def _take(self, frame: Any) -> None:
        if self.jailed and self._killed is None:
            self._frames.append(frame)
            if len(self._frames) > _MAX_UNREAD:
                self._refuse("it said more than it was asked")
        elif self.jailed:
            pass  # its last words
        elif isinstance(frame, dict) and frame.get("jailed") is True:
            self.jailed = True
            self._watch.restart()  # its own time begins here
        else:
            raise SandboxError(f"a process could not be shut in: {frame}")

    def _refuse(self, why: str) -> None:
        self._data.clear()
        self.kill("output", why)

    def _step(self, sender: "Run | None" = None) -> None:
        """Let something happen; end it when its time is up."""
        now = self._jail.clock.now()
        if self._over_since is None:
            self._watch.look(self.pidfd)
            if self._watch.used_s > self.limits.cpu_s:
                self.kill("cpu")
            elif self._watch.working_s >= self.limits.wall_s and not self._has_come():
                self._end_of_time()
        elif now > self._over_since + self._answer_s:
            raise SandboxError(f"a jailed process did not end within {self._answer_s:g} s of being killed")
        self._jail.pump(now + SLICE_S, sender)

    def _has_come(self) -> bool:
        """Whether something came in time that we were too late to see."""
        before = len(self._frames)
        self._jail.pump(0.0)
        return len(self._frames) > before or self._over_since is not None or self.ending is not None

    def _end_of_time(self) -> None:
        self._watch.look(self.pidfd, now=True)
        if self._watch.own_s >= self.limits.wall_s:
            self.kill("wall")
        elif self._watch.working_s >= _PATIENCE * self.limits.wall_s:
            self.kill("starved")
