import os
import subprocess
import sys

from verifiers.exact import Exact
from verifiers.records import ScoreRequest, Verdict
from verifiers.worker import judge


def test_a_worker_whose_parent_is_gone_does_not_start() -> None:
    worker = subprocess.run(
        [sys.executable, "-m", "verifiers.worker", str(os.getppid())], capture_output=True, timeout=30, text=True
    )
    assert worker.returncode == 1
    assert worker.stdout == ""
    assert "is gone" in worker.stderr


def test_a_worker_ends_with_its_input() -> None:
    worker = subprocess.run(
        [sys.executable, "-m", "verifiers.worker", str(os.getpid())], input=b"", capture_output=True, timeout=30
    )
    assert worker.returncode == 0


def test_an_exception_becomes_a_verdict_without_a_reward() -> None:
    verdict = judge(Exact(), ScoreRequest("", "x", ""))
    assert (verdict.reward, verdict.status, verdict.verifier) == (None, "error", "exact")
    assert verdict.feedback.startswith("ValueError: the reference is empty")


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
