"""What a scoring process does: reads requests from its socket, one at a time, and writes a verdict for each.

A request is `[prompt, response, reference, truncated, extras]`. Sets no time-outs: whoever asked kills it.
`verifiers.template` forks these processes.
"""

import json
import math
import time
from dataclasses import asdict, replace
from typing import BinaryIO

from verifiers.frames import read, write
from verifiers.protocol import Verifier
from verifiers.records import ScoreRequest, Verdict

_MAX_ANSWER = 200  # characters; what is longer is a text, which its tokens tell apart as well


def serve(verifier: Verifier, stream: BinaryIO, made_with: str = "") -> None:
    """Judge until the stream ends. `made_with` ends the version of every verdict: options change verdicts as well."""
    while (fields := read(stream.read)) is not None:
        verdict = judge(verifier, ScoreRequest(*fields))
        write(stream, asdict(replace(verdict, version=verdict.version + made_with)))


def judge(verifier: Verifier, request: ScoreRequest) -> Verdict:
    """The verdict on one answer. The one place where an exception of a verifier becomes data."""
    began = time.perf_counter()
    try:
        verdict = verifier.score(request)
        if not isinstance(verdict, Verdict):
            raise TypeError(f"a verifier returns a Verdict, got {type(verdict).__name__}")
        if verdict.reward is not None and not math.isfinite(verdict.reward):
            raise ValueError(f"a reward is a finite number, got {verdict.reward}")
        if not isinstance(verdict.answer, str):
            raise TypeError(f"a verdict's answer is text, got {type(verdict.answer).__name__}")
        if len(verdict.answer) > _MAX_ANSWER:
            verdict = replace(verdict, answer="")
        verdict = _writable(verdict)
    except (Exception, SystemExit) as error:
        verdict = _writable(Verdict(None, "error", verifier.name, verifier.version, feedback=describe(error)))
    return replace(verdict, milliseconds=round(1e3 * (time.perf_counter() - began), 3))


def _writable(verdict: Verdict) -> Verdict:
    """The verdict as it can be written down: a program may put half a surrogate pair into what it raises, which no file
    takes. Raises TypeError for what is no JSON."""
    text = json.dumps(asdict(verdict), ensure_ascii=False)
    if text.isascii():
        return verdict
    fields = json.loads(text.encode("utf-8", "replace"))
    return Verdict(**(fields | {"steps": tuple(fields["steps"])}))


def describe(error: BaseException) -> str:
    """An exception in a line."""
    return f"{type(error).__name__}: {error}"[:500]
