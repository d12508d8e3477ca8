"""What the machine does to a run is no verdict on the program; what the program does to itself is."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sandbox_attacks import tiers_here

from verifiers.code_answer import CodeAnswer
from verifiers.code_reference import read
from verifiers.records import ScoreRequest, Verdict
from verifiers.sandbox.clock import Clock, Stopwatch
from verifiers.sandbox.records import SandboxError

ROOT = Path(__file__).parents[2]
TIERS = [tier for tier in tiers_here() if tier != "D"]
pytestmark = pytest.mark.skipif(not TIERS, reason="no sandbox of tier A, B or C works on this machine")

NAPS = "import time\ndef f(x):\n    time.sleep(0.2)\n    return 2 * x"
CALLS = {"entry": "f", "cases": [[[i], 2 * i] for i in range(4)]}
TESTS = {"entry": "f", "tests": "\n".join(f"assert f({i}) == {2 * i}" for i in range(4))}
OUTPUTS = {"cases": [{"input": f"{i}", "output": f"{2 * i}"} for i in range(4)]}


def score(verifier: CodeAnswer, program: str, reference: dict[str, Any]) -> Verdict:
    return verifier.score(ScoreRequest("", program, json.dumps(reference)))


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


@contextmanager
def on_a_crowded_processor(verifier: CodeAnswer, others: int) -> Iterator[None]:
    """Everything that the verifier runs shares one processor with so many others."""
    cpu = min(os.sched_getaffinity(0))
    spin = f"import os; os.sched_setaffinity(0, [{cpu}])\nwhile True: pass"
    # each in a session of its own: the kernel shares out processors between sessions first
    hogs = [subprocess.Popen([sys.executable, "-S", "-c", spin], start_new_session=True) for _ in range(others)]
    try:
        for pid in family(verifier.open()._server.pid):
            os.sched_setaffinity(pid, [cpu])
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


@pytest.mark.parametrize(
    ("program", "reference"),
    [(NAPS, CALLS), (NAPS, TESTS), ("import time\ntime.sleep(0.2)\nprint(2 * int(input()))", OUTPUTS)],
)
def test_time_in_which_the_trusted_side_was_stopped_is_not_the_programs(program: str, reference: Any) -> None:
    script = (
        "from verifiers.code_answer import CodeAnswer\nfrom verifiers.records import ScoreRequest\n"
        "verifier = CodeAnswer(wall_s=2)\nverifier.open()\nprint('ready', flush=True)\n"
        f"print(verifier.score(ScoreRequest('', {program!r}, {json.dumps(reference)!r})).status)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(ROOT)}
    ) as judge:
        assert judge.stdout is not None
        assert judge.stdout.readline() == "ready\n"
        time.sleep(0.3)
        judge.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        judge.send_signal(signal.SIGCONT)
        assert judge.stdout.read() in ("correct\n", "timeout\n")  # timeout: others had the processors as well


def test_the_clock_leaves_out_what_was_missed_and_keeps_work_and_waits() -> None:
    clock = Clock()
    began = clock.now()
    time.sleep(0.5)
    assert clock.now() - began < 0.2  # nobody said that we would wait
    time.sleep(0.3)
    assert 0.28 < clock.now(waited_s=0.3) - began < 0.45
    until = time.thread_time() + 0.3
    while time.thread_time() < until:
        pass
    assert 0.56 < clock.now() - began < 1.0


def test_a_stopwatch_runs_while_it_is_told_to() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    time.sleep(0.3)
    clock.now(waited_s=0.3)
    watch.stop()
    time.sleep(0.3)
    clock.now(waited_s=0.3)
    assert 0.27 < watch.working_s < 0.55
    watch.go()
    time.sleep(0.3)
    clock.now(waited_s=0.3)
    assert 0.54 < watch.working_s < 0.85


def test_waiting_for_a_processor_is_seen_and_is_not_the_programs() -> None:
    spin = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\nwhile True: pass"
    hogs = [subprocess.Popen([sys.executable, "-S", "-c", spin]) for _ in range(4)]
    try:
        pidfd = os.pidfd_open(hogs[0].pid)
        watch = Stopwatch(Clock())
        watch.look(pidfd, now=True)
        deadline = time.monotonic() + 30
        while watch.working_s - watch.own_s < 0.3 and time.monotonic() < deadline:
            time.sleep(0.05)
            watch._clock.now(waited_s=0.05)
            watch.look(pidfd)
        assert watch.working_s - watch.own_s >= 0.3
        os.close(pidfd)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_a_program_that_got_no_processor_is_not_called_wrong() -> None:
    verifier = CodeAnswer(wall_s=2, cpu_s=30, tier=TIERS[0])
    with on_a_crowded_processor(verifier, 6):
        verdict = score(verifier, "def f(x):\n    while True: pass", CALLS)
    verifier.close()
    assert (verdict.status, verdict.reward) == ("timeout", None)
    assert "no processor" in verdict.feedback


def test_waiting_that_is_spread_over_many_cases_counts_in_sum() -> None:
    work = "import time\nuntil = time.process_time() + 0.1\nwhile time.process_time() < until: pass\nprint(input())"
    reference = {"cases": [{"input": f"{i}", "output": f"{i}"} for i in range(8)]}
    verifier = CodeAnswer(wall_s=2, cpu_s=30, tier=TIERS[0])
    with on_a_crowded_processor(verifier, 5):
        began = time.monotonic()
        verdict = score(verifier, work, reference)
        took = time.monotonic() - began
    verifier.close()
    assert verdict.status in ("correct", "timeout"), verdict
    assert took > 2.5  # so a clock on the wall would have ended it


def test_a_program_that_starves_itself_is_wrong() -> None:
    burns = """
import hashlib, threading, time
threading.stack_size(1 << 18)
def burn(until):
    while time.monotonic() < until: hashlib.pbkdf2_hmac("sha256", b"x", b"y", 20_000)
def f(x):
    until = time.monotonic() + 1.6
    for _ in range(5): threading.Thread(target=burn, args=(until,)).start()
    burn(until)
    time.sleep(60)
"""
    verifier = CodeAnswer(wall_s=2, cpu_s=30, tier=TIERS[0])
    with on_a_crowded_processor(verifier, 0):
        verdict = score(verifier, burns, CALLS)
    verifier.close()
    assert (verdict.status, verdict.reward) == ("wrong", 0.0), verdict
    assert "time limit" in verdict.feedback


def kill_jailed(server: int, stop: threading.Event, times: int) -> None:
    """Do to the innermost jailed processes what the kernel does when it is out of memory."""
    before = set(family(server))
    while times and not stop.wait(0.05):
        for pid in set(family(server)) - before:
            time.sleep(0.3)
            os.kill(pid, signal.SIGKILL)
            times -= 1
            break


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("program", "reference"), [(NAPS, CALLS), ("import time\ntime.sleep(0.6)\nprint(2 * int(input()))", OUTPUTS)]
)
def test_a_program_that_somebody_else_killed_is_judged_again(tier: str, program: str, reference: Any) -> None:
    verifier = CodeAnswer(wall_s=60, tier=tier)
    stop = threading.Event()
    killer = threading.Thread(target=kill_jailed, args=(verifier.open()._server.pid, stop, 1))
    killer.start()
    try:
        assert score(verifier, program, reference).status == "correct"
    finally:
        stop.set()
        killer.join()
        verifier.close()


def test_what_is_killed_from_outside_is_no_verdict() -> None:
    verifier = CodeAnswer(wall_s=60)
    stop = threading.Event()
    jail = verifier.open()
    killer = threading.Thread(target=kill_jailed, args=(jail._server.pid, stop, 1))
    killer.start()
    try:
        with pytest.raises(SandboxError, match="killed from outside"):
            verifier._judge("import time\ndef f(x): time.sleep(9)", read(json.dumps(CALLS)))
    finally:
        stop.set()
        killer.join()
        verifier.close()


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    "how",
    [
        "os.kill(os.getpid(), 9)",
        "signal.pthread_kill(threading.get_ident(), 9)",
        "ctypes.CDLL(None).kill(os.getpid(), 9)",
        "os.kill(0, 9)",
        "os.kill(-1, 9)",
    ],
)
def test_a_program_cannot_pass_for_killed_by_the_machine(tier: str, how: str) -> None:
    verifier = CodeAnswer(wall_s=60, tier=tier)
    try:
        verdict = score(verifier, f"import ctypes, os, signal, threading\ndef f(x): {how}", CALLS)
        assert (verdict.status, verdict.reward) == ("wrong", 0.0)
        assert verdict.facts["denied_syscalls"] == 1.0
    finally:
        verifier.close()
