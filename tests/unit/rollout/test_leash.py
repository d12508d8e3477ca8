"""A leashed process dies with the one that spawned it."""

import copy
import os
import pickle
import signal
import subprocess
import sys
import time

import psutil

from rollout.leash import Leash

PARENT = """
import multiprocessing, time
from rollout.leash import Leash

def child(leash):
    time.sleep(600)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child, args=(Leash(),))
    process.start()
    print(process.pid, flush=True)
    time.sleep(600)
"""


def killed_parents_child(tmp_path, wait_s: float) -> int:
    """Pid of the child of a parent that is killed `wait_s` seconds after it spawned the child."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        time.sleep(wait_s)
        assert psutil.pid_exists(pid)
        os.kill(parent.pid, signal.SIGKILL)
    return pid


def assert_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline, f"process {pid} outlived its parent by 10 s"
        time.sleep(0.02)


def test_a_child_dies_with_its_killed_parent(tmp_path):
    assert_gone(killed_parents_child(tmp_path, wait_s=1.0))


def test_a_child_whose_parent_died_before_the_leash_arrived_dies_on_arrival(tmp_path):
    assert_gone(killed_parents_child(tmp_path, wait_s=0.0))


def test_in_its_own_process_a_leash_holds_nothing():
    assert isinstance(pickle.loads(pickle.dumps(Leash())), Leash)
    leash = Leash()
    assert copy.deepcopy(leash) is leash
