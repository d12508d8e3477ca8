"""The pool's side of `verifiers.template`: starts one, has it fork scoring processes, and buries them.

Waits for: a template to start and to load its verifier, a fork, a burial; each wait has a deadline, and a template
that misses one is killed with everything that it forked.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from verifiers.frames import FrameStream, frame
from verifiers.records import ScoreRequest, Verdict
from verifiers.spec import VerifierSpec

logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 60.0  # to start Python and to import a verifier (sympy: seconds on a busy machine)
_ANSWER_TIMEOUT_S = 20.0  # for what takes milliseconds


class VerifierUnavailable(RuntimeError):
    """No answer can be scored: the verifier cannot be loaded, or its process cannot be started."""


class ProcessDied(Exception):
    """The process ended while we waited for it."""


class NobodyWaits(Exception):
    """The answer's verdict is not wanted any more."""


@dataclass(slots=True, eq=False)
class ScoringProcess:
    """One scoring process, as the pool sees it."""

    pid: int
    """Also its process group. Nobody else's until it is buried."""
    home: "Nursery"
    """Where it was made, and is to be buried."""
    transport: asyncio.Transport
    stream: FrameStream
    served: int = 0
    """Answers that it has scored."""
    yielded: bool = False
    """Whether it runs at the lowest priority, for good."""

    @property
    def hung_up(self) -> bool:
        """Whether it is known to have ended, as when something killed it while it was idle."""
        return self.stream.ended

    def send(self, request: ScoreRequest) -> None:
        """Hand it an answer; they are scored in order."""
        fields = (request.prompt, request.response, request.reference, request.truncated, dict(request.extras))
        self.transport.write(frame(fields))

    async def receive(self, timeout_s: float, wanted: "asyncio.Future[Any]") -> Verdict:
        """The next verdict, while somebody waits for it.

        Raises:
            TimeoutError: It took longer; one may ask again.
            NobodyWaits: `wanted` was cancelled.
            ProcessDied: The process ended.
        """
        try:
            verdict = await self.stream.get(timeout_s, wanted)
        except EOFError:
            raise ProcessDied from None
        except TimeoutError:
            raise NobodyWaits if wanted.done() else TimeoutError from None
        self.served += 1
        return Verdict(**(verdict | {"steps": tuple(verdict["steps"])}))

    def yield_to_others(self) -> None:
        """From now on it runs only when the others leave a core idle; what it starts does not inherit that."""
        self.yielded = True
        with contextlib.suppress(OSError):
            os.sched_setscheduler(self.pid, os.SCHED_IDLE | os.SCHED_RESET_ON_FORK, os.sched_param(0))

    def at_rest(self) -> bool:
        """Whether nothing of it computes, or would if there were a core: it waits for something outside, or sleeps."""
        return not _computes(self.pid)

    def starved_s(self) -> float:
        """Seconds since its start in which it could have run and no core was free; 0 where the kernel does not say."""
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{self.pid}/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
        return 0.0

    def kill(self) -> None:
        """SIGKILL it with everything in its group."""
        if self.home.pid is not None:  # else it died with its template, and the number may be another's
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self.transport.close()


class Nursery:
    """One verifier, loaded; makes processes that score with it. Use `start` first, `close` last."""

    def __init__(self, spec: VerifierSpec) -> None:
        self._spec = spec
        self._handle: asyncio.subprocess.Process | None = None
        self._commands: socket.socket | None = None
        self._answers = FrameStream()
        self._turn = asyncio.Lock()
        self.name, self.version = spec.name, "unknown"
        self.timeout_s = spec.timeout_s or 0.0
        """Seconds one answer may take; known once the verifier is loaded."""
        self.slow_s = 0.0
        """Seconds after which one gives its place away; known then too."""

    @property
    def pid(self) -> int | None:
        """Of the template; None when it does not run."""
        return self._handle.pid if self._handle and self._handle.returncode is None else None

    async def start(self) -> None:
        """Start the template and load the verifier. Raises `VerifierUnavailable`, with nothing left behind."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._commands = ours
        read_end, write_end = os.pipe()
        try:
            await asyncio.get_running_loop().connect_read_pipe(lambda: self._answers, os.fdopen(read_end, "rb"))
            self._handle = await asyncio.create_subprocess_exec(
                *(sys.executable, "-s", "-P", "-m", "verifiers.template", str(theirs.fileno()), str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                pass_fds=[theirs.fileno()],
                env=_environment(self._spec.environment),
            )
        finally:
            theirs.close()
            os.close(write_end)
        loaded = await self._ask({"load": self._spec.name, "options": self._spec.arguments}, _START_TIMEOUT_S)
        if "refused" in loaded:
            await self.close()
            raise VerifierUnavailable(f"verifier {self._spec.name!r} cannot be loaded: {loaded['refused']}")
        self.name, self.version = loaded["name"], loaded["version"]
        self.timeout_s = self._spec.timeout_s or loaded["timeout_s"]
        self.slow_s = min(loaded["slow_s"], self.timeout_s)
        if loaded["isolation"]:
            logger.info("verifier %r runs code of the model in tier %s", self._spec.name, loaded["isolation"])
        if loaded["threads"] > 1:
            logger.warning(
                "verifier %r starts %d threads when it is loaded; scoring processes are forked from that one and do "
                "not have them: start them in score()",
                self._spec.name,
                loaded["threads"] - 1,
            )

    async def fork(self) -> ScoringProcess:
        """A new scoring process. Raises `VerifierUnavailable`."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                answer = await self._ask({"fork": True}, _ANSWER_TIMEOUT_S, theirs)
            transport, stream = await asyncio.get_running_loop().create_connection(FrameStream, sock=ours)
        except BaseException:
            ours.close()
            raise
        process = ScoringProcess(answer["pid"], self, transport, stream)
        try:
            await stream.get(_START_TIMEOUT_S)  # its first word: it is ready
        except (TimeoutError, EOFError):
            status = await self.bury(process)
            raise VerifierUnavailable(
                f"a scoring process of {self._spec.name!r} did not get ready within {_START_TIMEOUT_S:g} s (exit "
                f"status {status}); see stderr"
            ) from None
        except BaseException:
            process.kill()
            raise
        return process

    async def bury(self, process: ScoringProcess) -> int:
        """Kill it and whatever it started, for good; returns its exit status."""
        process.kill()
        return int((await self._ask({"bury": process.pid}, _ANSWER_TIMEOUT_S))["status"])

    async def close(self) -> None:
        """End the template, and with it all that it forked; nothing stays behind. Safe to call twice."""
        if self._handle is None or self._commands is None:
            return
        self._commands.close()  # it ends, and kills everything first
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                await self._handle.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._handle.kill()
            await self._handle.wait()

    async def _ask(self, command: Mapping[str, Any], timeout_s: float, sent: socket.socket | None = None) -> Any:
        """One command, one answer; in turn."""
        assert self._handle is not None
        assert self._commands is not None
        asked = False
        try:
            async with self._turn:
                asked = True
                packet, sockets = json.dumps(command).encode(), [sent.fileno()] if sent else []
                socket.send_fds(self._commands, [packet], sockets)
                return await self._answers.get(timeout_s)
        except (TimeoutError, EOFError, OSError, asyncio.CancelledError) as error:
            if asked:  # what it says next would be the answer to another command
                await self.close()
            if isinstance(error, asyncio.CancelledError):
                raise
            verb = next(iter(command))
            raise VerifierUnavailable(
                f"the process that scoring processes of {self._spec.name!r} are forked from did not {verb} within "
                f"{timeout_s:g} s (exit status {self._handle.returncode}); see stderr"
            ) from None


def _computes(pid: int) -> bool:
    """Whether a thread of a process, or of what it started, runs, waits for a core or for the disk."""
    with contextlib.suppress(OSError):  # it ended meanwhile
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] in "RD":
                    return True
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                started = file.read().split()
            if any(_computes(int(child)) for child in started):
                return True
    return False


def _environment(names: Collection[str]) -> dict[str, str]:
    """What a verifier sees: the variables that its recipe names, no other secrets, and the import path of this process,
    so that it finds the same plug-ins."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    fixed = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": path, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    return {name: os.environ[name] for name in names if name in os.environ} | fixed
