"""One scoring process: `python -m verifiers.worker PARENT_PID`. Reads requests on stdin, answers on stdout.

Both ways travel frames: four bytes of length, then JSON. A request is `{"load": name}` or
`{"score": name, "requests": [[prompt, response, reference, truncated], …]}`; the answer is one frame for a load and
one frame per answer scored, as soon as it is scored. Sets no time-outs: whoever started it kills it.
"""

import ctypes
import json
import math
import os
import signal
import struct
import sys
from dataclasses import asdict, replace
from typing import Any, BinaryIO

from verifiers.catalogue import load
from verifiers.protocol import Prepared, Verifier
from verifiers.records import ScoreRequest, Verdict

HEADER = struct.Struct(">I")
_PR_SET_PDEATHSIG = 1
_MAX_ANSWER = 200  # characters; what is longer is a text, which its tokens tell apart as well


def main() -> None:
    """Serve until stdin ends or the parent dies."""
    die_with_parent(int(sys.argv[1]))
    requests, answers = _private_streams()
    verifiers: dict[str, Verifier] = {}
    _write(answers, {"ready": os.getpid()})
    while (message := _read(requests)) is not None:
        if "load" in message:
            _write(answers, _load(verifiers, message["load"]))
        else:
            for fields in message["requests"]:
                _write(answers, asdict(judge(verifiers[message["score"]], ScoreRequest(*fields))))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` dies; exit now if it is already gone."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(f"verifier worker: process {parent} that started it is gone")


def judge(verifier: Verifier, request: ScoreRequest) -> Verdict:
    """The verdict on one answer. The one place where an exception of a verifier becomes data."""
    try:
        verdict = verifier.score(request)
        if not isinstance(verdict, Verdict):
            raise TypeError(f"a verifier returns a Verdict, got {type(verdict).__name__}")
        if verdict.reward is not None and not math.isfinite(verdict.reward):
            raise ValueError(f"a reward is a finite number, got {verdict.reward}")
        json.dumps(asdict(verdict))
        if not isinstance(verdict.answer, str):
            raise TypeError(f"a verdict's answer is text, got {type(verdict.answer).__name__}")
        if len(verdict.answer) > _MAX_ANSWER:
            verdict = replace(verdict, answer="")
    except (Exception, SystemExit) as error:
        return Verdict(None, "error", verifier.name, verifier.version, feedback=_describe(error))
    return verdict


def _load(verifiers: dict[str, Verifier], name: str) -> dict[str, Any]:
    """Load and prepare a verifier; a failure is an answer as well."""
    try:
        verifier = load(name)
        if isinstance(verifier, Prepared):
            verifier.prepare()
    except (Exception, SystemExit) as error:
        return {"refused": _describe(error)}
    verifiers[name] = verifier
    return {"name": str(verifier.name), "version": str(verifier.version)}


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """Our ends of the pipes, out of the way of user code: its input is empty, its output goes to stderr."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return requests, answers


def _read(stream: BinaryIO) -> dict[str, Any] | None:
    """The next request, or None at the end of input."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    return json.loads(stream.read(*HEADER.unpack(header)))  # type: ignore[no-any-return]


def _write(stream: BinaryIO, message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    stream.write(HEADER.pack(len(body)) + body)
    stream.flush()


if __name__ == "__main__":
    main()
