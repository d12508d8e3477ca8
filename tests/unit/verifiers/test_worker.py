import io
import os
import socket
import subprocess
import sys

from verifiers.exact import Exact
from verifiers.frames import frame, read
from verifiers.records import ScoreRequest, Verdict
from verifiers.worker import judge, serve


class Duplex(io.BytesIO):
    """What is read was put there before; what is written is kept apart."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.written = io.BytesIO()

    def write(self, data) -> int:
        return self.written.write(data)

    def messages(self) -> list:
        self.written.seek(0)
        return list(iter(lambda: read(self.written.read), None))


def test_a_template_whose_parent_is_gone_does_not_start() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "verifiers.template", str(theirs.fileno()), str(os.getppid())]
    with ours, theirs:
        template = subprocess.run(command, pass_fds=[theirs.fileno()], capture_output=True, timeout=30, text=True)
    assert template.returncode == 1
    assert template.stdout == ""
    assert "is gone" in template.stderr


def test_a_template_ends_with_its_socket() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "verifiers.template", str(theirs.fileno()), str(os.getpid())]
    with theirs:
        ours.close()
        assert subprocess.run(command, pass_fds=[theirs.fileno()], capture_output=True, timeout=30).returncode == 0


def test_a_worker_ends_with_its_stream() -> None:
    asked = frame(["", "Paris", "paris", False, {}])
    stream = Duplex(asked)
    serve(Exact(), stream)
    (verdict,) = stream.messages()
    assert (verdict["status"], verdict["verifier"]) == ("correct", "exact")


def test_an_exception_becomes_a_verdict_without_a_reward() -> None:
    verdict = judge(Exact(), ScoreRequest("", "x", ""))
    assert (verdict.reward, verdict.status, verdict.verifier) == (None, "error", "exact")
    assert verdict.feedback.startswith("ValueError: the reference is empty")


class Half:
    """Says half a surrogate pair, as a program may; raises it as well."""

    name, version = "half", "1"

    def score(self, request: ScoreRequest) -> Verdict:
        if request.response == "raise":
            raise ValueError("\ud800")
        return Verdict(
            0.0, "wrong", "half", "1", {"\ud800": 1.0}, feedback="é\udfff", answer="\U0001f600", steps=(1.0,)
        )


def test_what_no_file_takes_is_replaced_in_a_verdict() -> None:
    verdict = judge(Half(), ScoreRequest("", "say", ""))
    assert (verdict.feedback, verdict.parts, verdict.answer, verdict.steps) == ("é?", {"?": 1.0}, "\U0001f600", (1.0,))
    assert judge(Half(), ScoreRequest("", "raise", "")).feedback == "ValueError: ?"


class Echo:
    """Reads the answer as whatever `read` makes of the response."""

    name, version = "echo", "1"

    def __init__(self, read) -> None:
        self.read = read

    def score(self, request: ScoreRequest) -> Verdict:
        return Verdict(1.0, "correct", self.name, self.version, answer=self.read(request.response))


def test_a_short_answer_is_kept_and_a_long_text_is_left_to_its_tokens() -> None:
    assert judge(Echo(str), ScoreRequest("", "x" * 200, "x")).answer == "x" * 200
    assert judge(Echo(str), ScoreRequest("", "x" * 201, "x")).answer == ""


def test_an_answer_that_is_no_text_is_a_fault_of_the_verifier() -> None:
    verdict = judge(Echo(len), ScoreRequest("", "xyz", "x"))
    assert (verdict.status, verdict.feedback) == ("error", "TypeError: a verdict's answer is text, got int")
