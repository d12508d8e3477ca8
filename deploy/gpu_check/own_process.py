"""A part in a process of its own: when it crashes or hangs, that is its outcome, and the next part runs all the same.

The process says in a file how it ended; one that says nothing has failed. Whatever it printed is in a log beside it.
"""

import contextlib
import json
import os
import pickle
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from deploy.gpu_check.outcomes import Outcome, Status
from rollout.leash import Leash

_GONE_S = 5.0


def run_part(
    part: str, command: Sequence[str], deadline_s: float, folder: Path, environ: Mapping[str, str] = os.environ
) -> Outcome:
    """Start `command`, which gets the path of its answer as its last argument, and wait; nothing of it stays behind.

    Args:
        part: Name of the part, and of its files in `folder`.
        command: Reads a `Leash` from its standard input, and answers with `answer`.
        deadline_s: When it is ended, with everything it started.
        folder: Where answer and log go.
        environ: Of the process.
    """
    said, log = folder / f"{part}.json", folder / f"{part}.log"
    began = time.monotonic()

    def outcome(status: Status, figure: str) -> Outcome:
        return Outcome(part, status, time.monotonic() - began, figure)

    with log.open("wb") as printed:
        process = subprocess.Popen(
            [*command, str(said)],
            stdin=subprocess.PIPE,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            start_new_session=True,
        )
        try:
            _hand_over(process, pickle.dumps(Leash()))
            code = process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            return outcome("FAIL", f"not done in {deadline_s:g} s; {_last_words(log)}")
        finally:
            _end(process)
    if said.exists() and code == 0:
        return outcome(**json.loads(said.read_text()))
    how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
    when = " after it had answered" if said.exists() else ""
    return outcome("FAIL", f"its process {how}{when}; {_last_words(log)}")


def answer(file: Path, status: Status, figure: str) -> None:
    """What the process of a part says at its end."""
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps({"status": status, "figure": figure}))
    draft.replace(file)


def _hand_over(process: "subprocess.Popen[bytes]", leash: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:  # it may be gone already
        process.stdin.write(leash)


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"the last line of {log}: {lines[-1][:200]}" if lines else "it printed nothing"


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill it, if it is still there, and whatever is left below it or in its session."""
    below = _below(process.pid) if process.poll() is None else []  # else its number may be somebody else's by now
    left = {*below, *_session(process.pid)}
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # one that the kernel holds is left to it
        process.wait(_GONE_S)
    psutil.wait_procs(left, timeout=_GONE_S)


def _below(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _session(leader: int) -> list[psutil.Process]:
    """Processes whose parent is gone keep the session."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return found
