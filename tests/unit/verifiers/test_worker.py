import os
import subprocess
import sys

from verifiers.exact import Exact
from verifiers.records import ScoreRequest
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
