import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sandbox_attacks import tiers_here

from verifiers.sandbox import values
from verifiers.sandbox.jail import Jail
from verifiers.sandbox.records import Ending, Limits, SandboxError
from verifiers.sandbox.run import Ended, Run
from verifiers.sandbox.tiers import open_jail, self_test

ROOT = Path(__file__).parents[2]
TIERS = tiers_here()
BEST = TIERS[0]
PATIENT = Limits(wall_s=60, cpu_s=20)


@pytest.fixture(scope="module", params=TIERS)
def jail(request: pytest.FixtureRequest) -> Iterator[Jail]:
    with Jail(request.param) as jail:
        yield jail


def load(jail: Jail, program: str, limits: Limits = PATIENT) -> Run:
    run = jail.start("solver", limits)
    run.send({"program": program, "helpers": "", "entry": "f"})
    assert run.receive() == {"value": True}
    return run


def call(run: Run, *args: Any) -> Any:
    run.send({"op": "call", "on": "f", "args": values.encode(list(args)), "kwargs": {"d": []}})
    answer = run.receive()
    return values.decode(answer["value"], lambda number: "opaque") if "value" in answer else answer["raised"]


def ending_of(jail: Jail, program: str, limits: Limits) -> Ending:
    run = load(jail, program, limits)
    with pytest.raises(Ended):
        call(run)
    assert run.ending is not None
    return run.ending


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(one for child in children for one in family(int(child)))]


def gone(pids: list[int], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_each_tier_that_starts_passes_its_own_test(jail: Jail) -> None:
    assert self_test(jail) == []


def test_a_program_is_asked_again_and_again_in_one_process(jail: Jail) -> None:
    run = load(jail, "seen = []\ndef f(x):\n    seen.append(x)\n    return {'seen': tuple(seen), b'n': {len(seen)}}")
    assert call(run, "a") == {"seen": ("a",), b"n": {1}}
    assert call(run, float("inf")) == {"seen": ("a", float("inf")), b"n": {2}}
    assert run.close().cause == "wall"  # we ended it


def test_nothing_of_a_run_is_left_for_the_next(jail: Jail) -> None:
    with_traces = """
import builtins, os, random, sys
def f():
    was = getattr(builtins, "trace", 0), os.environ.get("T"), "mine" in sys.modules, random.random()
    builtins.trace = 1; os.environ["T"] = "1"; sys.modules["mine"] = sys
    return was
"""
    answers = []
    for _ in range(2):
        run = load(jail, with_traces)
        answers.append(call(run))
        run.close()
    assert answers[0] == answers[1] == (0, None, False, answers[0][3])  # and both draw the same random number


def test_it_says_why_a_process_ended(jail: Jail) -> None:
    short = Limits(wall_s=0.5, cpu_s=30)
    assert ending_of(jail, "import time\ndef f(): time.sleep(60)", short).cause == "wall"
    busy = ending_of(jail, "def f():\n    while True: pass", Limits(wall_s=60, cpu_s=1))
    assert busy.cause == "cpu"
    assert 0.9 < busy.cpu_s < 2
    loud = ending_of(jail, "def f():\n    while True: print('x' * 9999)", Limits(wall_s=60, output_kb=100))
    assert (loud.cause, loud.detail) == ("output", "printed more than 100 KiB")
    left = ending_of(jail, "import os\ndef f(): os._exit(7)", PATIENT)
    assert (left.cause, left.code) == ("exit", 7)
    shot = ending_of(jail, "import ctypes\ndef f(): ctypes.string_at(0)", PATIENT)
    assert shot.cause == "signal"


def test_memory_beyond_the_limit_is_refused_and_memory_within_it_is_there(jail: Jail) -> None:
    run = load(jail, "def f(mb): return len(bytearray(mb << 20)) >> 20", Limits(wall_s=60, cpu_s=20, memory_mb=128))
    assert call(run, 100) == 100
    assert call(run, 200) == ["MemoryError", ""]
    run.close()


def test_what_is_printed_is_kept_and_input_is_read(jail: Jail) -> None:
    run = jail.start("script", PATIENT, "grün\n2\n".encode())
    run.send({"program": "import sys\na, b = open(0).read().split()\nprint(a)\nprint(b, file=sys.stderr)\nsys.exit(3)"})
    assert run.wait().code == 3
    assert (run.output(run.out), run.output(run.err).strip()) == ("grün\n", "2")


def test_a_denied_call_is_counted_from_outside(jail: Jail) -> None:
    run = load(
        jail,
        "import socket\ndef f():\n    for _ in range(3):\n        try: socket.socket(socket.AF_INET)\n"
        "        except OSError: pass",
    )
    call(run)
    run.close()
    assert run.denied == (0 if jail.tier == "D" else 3)


def test_jailed_code_is_nobody_when_the_server_is_root(jail: Jail) -> None:
    run = load(jail, "import os\ndef f(): return os.getuid(), os.getgid(), os.getgroups()")
    uid, gid, groups = call(run)
    run.close()
    if os.geteuid() == 0:
        assert 61184 <= uid == gid < 65520
        assert groups == []
    else:
        assert uid == os.getuid()


def test_processes_that_a_run_leaves_behind_are_ended_with_it() -> None:
    if "D" not in TIERS:
        pytest.skip("tier D does not work on this machine")
    with Jail("D") as jail:
        run = load(
            jail,
            "import os, time\ndef f():\n    if os.fork() == 0:\n        os.setsid()\n"
            "        if os.fork() == 0: time.sleep(600)\n        os._exit(0)\n    return os.wait()[0] > 0",
        )
        assert call(run) is True
        run.close()
        assert family(jail._server.pid) == [jail._server.pid]


def test_two_processes_run_side_by_side_and_are_drained_together(jail: Jail) -> None:
    loud = "def f(n):\n    print('x' * n)\n    return n"
    first, second = load(jail, loud), load(jail, loud)
    for run in (first, second):
        run.send({"op": "call", "on": "f", "args": [500_000], "kwargs": {"d": []}})
    assert second.receive() == first.receive() == {"value": 500_000}
    first.close()
    second.close()


def test_everything_is_gone_after_close(jail: Jail) -> None:
    with Jail(jail.tier) as other:
        run = load(other, "def f():\n    while True: pass")
        run.send({"op": "call", "on": "f", "args": [], "kwargs": {"d": []}})
        pids = family(other._server.pid)
        assert len(pids) >= 2
        before = len(os.listdir("/proc/self/fd"))
    assert gone(pids, 10)
    assert len(os.listdir("/proc/self/fd")) < before


def test_the_server_and_its_processes_die_with_a_parent_that_is_killed(jail: Jail) -> None:
    script = (
        "import sys, time\nfrom verifiers.sandbox.jail import Jail\nfrom verifiers.sandbox.records import Limits\n"
        f"jail = Jail({jail.tier!r})\nrun = jail.start('solver', Limits(wall_s=600, cpu_s=600))\n"
        "run.send({'program': 'while True: pass', 'helpers': '', 'entry': 'f'})\n"
        "print(jail._server.pid, flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(ROOT)}
    ) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        pids = family(server)
        assert len(pids) >= 2
        parent.kill()
        parent.wait()
        assert gone(pids, 10)


def test_a_dead_server_is_an_error_and_no_verdict(jail: Jail) -> None:
    with Jail(jail.tier) as other:
        run = load(other, "def f(): return 1")
        for pid in family(other._server.pid):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises((SandboxError, Ended)):
            call(run)
        with pytest.raises(SandboxError, match="fork server"):
            other.start("solver", PATIENT)


# A machine that allows less, as containers do: a filter over us that answers some calls with EPERM.
CONTAINER = """
import ctypes, struct, sys
from verifiers.sandbox import syscalls, kernel
from verifiers.sandbox.records import SandboxError
from verifiers.sandbox.tiers import open_jail
arch = syscalls.architecture()
steps = [(0x20, 0, 0, 0)]
for name in sys.argv[1].split(","):
    steps += [(0x15, 0, 1, syscalls.number(name, arch)), (0x06, 0, 0, 0x00050001)]
code = b"".join(struct.pack("=HBBI", *step) for step in [*steps, (0x06, 0, 0, 0x7FFF0000)])
buffer = ctypes.create_string_buffer(code, len(code))
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
program = struct.pack("@HP", len(steps) + 1, ctypes.addressof(buffer))
kernel.syscall("seccomp", syscalls.number("seccomp", arch), 1, 0, program)
try:
    jail, failures = open_jail(allow_unsafe_code=sys.argv[2] == "unsafe")
except SandboxError as error:
    print("none", error)
else:
    print(jail.tier, failures)
    jail.close()
"""


@pytest.mark.skipif(not set("AB") <= set(TIERS), reason="this machine is such a container itself")
@pytest.mark.parametrize(
    ("denied", "unsafe", "tier", "said"),
    [
        ("unshare", "safe", "B", "unshare: Operation not permitted"),
        ("unshare,landlock_create_ruleset", "safe", "C", "landlock"),
        ("unshare,seccomp", "safe", "none", "allow_unsafe_code=true"),
        ("unshare,seccomp", "unsafe", "D", "seccomp"),
    ],
)
def test_the_best_tier_that_a_container_allows_is_taken(denied: str, unsafe: str, tier: str, said: str) -> None:
    command = [sys.executable, "-c", CONTAINER, denied, unsafe]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=120)
    assert done.stdout.split()[:1] == [tier], done
    assert said in done.stdout


def test_tier_d_is_refused_unless_it_is_asked_for_by_its_name() -> None:
    with pytest.raises(SandboxError, match="allow_unsafe_code=true"):
        open_jail(["D"])


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can be somebody else")
@pytest.mark.parametrize("tier", [tier for tier in TIERS if tier != "D"])
def test_no_root_is_needed(tier: str) -> None:
    python = "/usr/bin/python3"
    if (
        not os.path.exists(python)
        or subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).returncode
    ):
        pytest.skip("needs a Python that everybody may read")
    folder = tempfile.mkdtemp()
    try:
        os.chmod(folder, 0o755)
        shutil.copytree(ROOT / "verifiers", f"{folder}/verifiers", ignore=shutil.ignore_patterns("__pycache__"))
        script = (
            "from verifiers.code_answer import CodeAnswer\nfrom verifiers.records import ScoreRequest\n"
            f"verifier = CodeAnswer(tier={tier!r}, wall_s=60)\n"
            'for tests in (\'"tests": "assert f(2) == 4"\', \'"cases": [[[2], 4]]\'):\n'
            "    reference = '{\"entry\": \"f\", ' + tests + '}'\n"
            "    verdict = verifier.score(ScoreRequest('', 'def f(x): return x * 2', reference))\n"
            "    print(verdict.status, verdict.isolation)"
        )
        who = ["setpriv", "--reuid", "61111", "--regid", "61111", "--clear-groups", python, "-B", "-c", script]
        done = subprocess.run(who, capture_output=True, text=True, env={"PYTHONPATH": folder}, timeout=120, cwd="/")
        assert done.stdout.splitlines() == [f"correct {tier}"] * 2, done
    finally:
        shutil.rmtree(folder)
