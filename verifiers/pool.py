"""Scoring processes that can be killed: each answer has a deadline, and nothing it does reaches another answer.

Plain asyncio, no Ray. Waits for: a process to start, a verifier to load, a verdict; each wait has a deadline and
ends with the process killed. A fault is a verdict (`timeout`, `error`); only a verifier that cannot be loaded, or
processes that cannot be started, raise.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from verifiers.records import ScoreRequest, Verdict
from verifiers.worker import HEADER

_START_TIMEOUT_S = 60.0  # to start Python, to import a verifier (sympy: seconds on a busy machine), to take requests
_EXIT_TIMEOUT_S = 10.0  # a killed process is gone in milliseconds, unless it sits in a system call
_CHUNK = 64  # answers handed to a process at once: few enough to share a group, enough to hide the round trip


class VerifierUnavailable(RuntimeError):
    """No answer can be scored: the verifier cannot be loaded, or its process cannot be started."""


class _ProcessDied(Exception):
    """The process ended while we waited for it."""


@dataclass(slots=True, eq=False)
class _Process:
    """A worker process and what we know of it."""

    handle: asyncio.subprocess.Process
    loaded: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Own name and version of each verifier it has loaded, by the name it was asked for."""
    served: int = 0
    """Answers it has scored."""

    @property
    def hung_up(self) -> bool:
        """Whether it is known to have ended, as when something killed it while it was idle."""
        assert self.handle.stdout is not None
        return self.handle.stdout.at_eof()

    async def send(self, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        assert self.handle.stdin is not None
        try:
            self.handle.stdin.write(HEADER.pack(len(body)) + body)
            async with asyncio.timeout(_START_TIMEOUT_S):  # a stopped process reads nothing
                await self.handle.stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _ProcessDied from error

    async def receive(self, timeout_s: float) -> dict[str, Any]:
        """The next frame. Raises `TimeoutError` or `_ProcessDied`; after either the process is of no use."""
        frame = asyncio.ensure_future(self._frame())
        try:
            # Unlike asyncio.timeout, this prefers an answer that has come while the event loop was busy elsewhere.
            await asyncio.wait({frame}, timeout=timeout_s)
            if not frame.done():
                raise TimeoutError
            return frame.result()
        finally:
            frame.cancel()

    async def _frame(self) -> dict[str, Any]:
        assert self.handle.stdout is not None
        try:
            header = await self.handle.stdout.readexactly(HEADER.size)
            return json.loads(await self.handle.stdout.readexactly(*HEADER.unpack(header)))  # type: ignore[no-any-return]
        except (asyncio.IncompleteReadError, ConnectionResetError) as error:
            raise _ProcessDied from error

    async def kill(self) -> int:
        """SIGKILL it with everything it started; returns its exit status once it is gone."""
        try:
            os.killpg(self.handle.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it is gone already
        assert self.handle.stdin is not None
        self.handle.stdin.close()
        async with asyncio.timeout(_EXIT_TIMEOUT_S):
            return await self.handle.wait()


class VerifierProcesses:
    """`processes` scoring processes. Use within one event loop: `start`, `score` (any number at once), `close`."""

    def __init__(self, processes: int, recycle_after: int = 2_000) -> None:
        """`recycle_after`: answers after which a process is replaced (caches of sympy grow without bound)."""
        if processes < 1:
            raise ValueError(f"a verifier pool has at least one process, got {processes}; use 1 or more")
        self._size = processes
        self._recycle_after = recycle_after
        self._alive: set[_Process] = set()
        self._free: asyncio.Queue[_Process | None] = asyncio.Queue()  # None: a place whose process must be started
        self._started = self._closed = False

    async def start(self) -> None:
        """Start all processes and wait until they are ready. Raises `VerifierUnavailable`, leaving none behind."""
        self._started = True
        starts = await asyncio.gather(*(self._launch() for _ in range(self._size)), return_exceptions=True)
        for outcome in starts:
            if isinstance(outcome, BaseException):
                await self.close()
                raise outcome
            self._free.put_nowait(outcome)

    def pids(self) -> list[int]:
        """Ids of the processes that live now; a place between two processes has none."""
        return [process.handle.pid for process in self._alive]

    async def score(self, name: str, requests: Sequence[ScoreRequest], timeout_s: float) -> list[Verdict]:
        """A verdict per request, in order. `timeout_s` is per answer and does not count waiting for a free process.

        An answer that takes longer gets status `timeout`, one on which a process dies twice gets `error`; both
        cost only that answer.

        Raises:
            VerifierUnavailable: When `name` cannot be loaded; says why.
        """
        if not self._started or self._closed:
            raise VerifierUnavailable(
                "these verifier processes do not run; call start() first, and score before close()"
            )
        size = max(1, min(_CHUNK, -(-len(requests) // self._size)))
        chunks = [requests[start : start + size] for start in range(0, len(requests), size)]
        try:
            async with asyncio.TaskGroup() as tasks:
                parts = [tasks.create_task(self._score_chunk(name, chunk, timeout_s)) for chunk in chunks]
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        return [verdict for part in parts for verdict in part.result()]

    async def close(self) -> None:
        """Kill the processes and wait until they are gone. Safe to call twice."""
        self._closed = True
        await asyncio.gather(*(self._retire(process) for process in tuple(self._alive)))

    async def _score_chunk(self, name: str, requests: Sequence[ScoreRequest], timeout_s: float) -> list[Verdict]:
        """Score in order on one process at a time; go on with a fresh one where an answer was the end of it."""
        verdicts: list[Verdict] = []
        died_on = -1  # index of the answer on which a process died last
        process = await self._free.get()
        try:
            while (first := len(verdicts)) < len(requests):
                if process is not None and (process.served >= self._recycle_after or process.hung_up):
                    await self._retire(process)
                    process = None
                if process is None:
                    process = await self._launch()
                identity = (name, "unknown")
                try:
                    identity = await self._load(process, name)
                    await process.send({"score": name, "requests": [_fields(r) for r in requests[first:]]})
                    while len(verdicts) < len(requests):
                        verdicts.append(Verdict(**await process.receive(timeout_s)))
                        process.served += 1
                except TimeoutError:
                    await self._retire(process)
                    process = None
                    why = f"no verdict within {timeout_s:g} s; its process was killed"
                    verdicts.append(Verdict(None, "timeout", *identity, feedback=why))
                except _ProcessDied:
                    status = await self._retire(process)
                    process = None
                    if died_on == len(verdicts):
                        why = f"its process died twice, exit status {status}"
                        verdicts.append(Verdict(None, "error", *identity, feedback=why))
                    else:
                        died_on = len(verdicts)
        except BaseException:  # cancelled, or no such verifier: what the process would say next is nobody's
            if process is not None:
                await self._retire(process)
                process = None
            raise
        finally:
            self._free.put_nowait(process)
        return verdicts

    async def _load(self, process: _Process, name: str) -> tuple[str, str]:
        """Have the process load a verifier, once; returns the verifier's own name and version."""
        if name not in process.loaded:
            await process.send({"load": name})
            try:
                answer = await process.receive(_START_TIMEOUT_S)
            except TimeoutError:
                raise VerifierUnavailable(f"verifier {name!r} did not load within {_START_TIMEOUT_S:g} s") from None
            if "refused" in answer:
                raise VerifierUnavailable(f"verifier {name!r} cannot be loaded: {answer['refused']}")
            process.loaded[name] = (answer["name"], answer["version"])
        return process.loaded[name]

    async def _launch(self) -> _Process:
        """Start a process and wait for its first word."""
        if self._closed:
            raise VerifierUnavailable("these verifier processes were closed")
        handle = await asyncio.create_subprocess_exec(
            *(sys.executable, "-s", "-P", "-m", "verifiers.worker", str(os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=_environment(),
            start_new_session=True,  # so that what a verifier starts can be killed with it
        )
        process = _Process(handle)
        self._alive.add(process)
        try:
            await process.receive(_START_TIMEOUT_S)
            if self._closed:
                raise VerifierUnavailable("these verifier processes were closed while one was starting")
        except BaseException as error:
            status = await self._retire(process)
            if isinstance(error, (TimeoutError, _ProcessDied)):
                raise VerifierUnavailable(
                    f"a verifier process did not start within {_START_TIMEOUT_S:g} s (exit status {status}); see stderr"
                ) from None
            raise
        return process

    async def _retire(self, process: _Process) -> int:
        """Kill a process for good; returns its exit status."""
        try:
            return await process.kill()
        finally:
            self._alive.discard(process)


def _environment() -> dict[str, str]:
    """What a worker sees: no secrets, and the import path of this process, so that it finds the same plug-ins."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": path, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}


def _fields(request: ScoreRequest) -> tuple[str, str, str, bool]:
    """A request as `verifiers.worker` reads it."""
    return request.prompt, request.response, request.reference, request.truncated
