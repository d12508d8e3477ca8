"""The Slurm script with a Slurm, a Ray and an rloop of paper: what it starts, tells, passes on and leaves behind."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "deploy" / "slurm" / "rloop.sbatch"

PAPER = {
    "getent": 'echo "127.0.1.1 STREAM node-0"; echo "0.0.0.0 STREAM node-0"',  # the second reaches this machine
    "srun": 'echo "$@" >>"$BOOK/srun"; [ ! -e "$BOOK/broken" ] || exit 1; exec sleep 60',
    "scontrol": 'echo "$@" >>"$BOOK/scontrol"',
    "ray": "exit 0",
    "python": 'cat "$BOOK/joined"',
    "rloop": """
        stat -c %a "$RAY_AUTH_TOKEN_PATH" >"$BOOK/mode"; cp "$RAY_AUTH_TOKEN_PATH" "$BOOK/token"
        env >"$BOOK/env"; echo "$@" >"$BOOK/rloop"
        trap 'sleep 0.3; exit 130' TERM
        [ ! -e "$BOOK/long" ] || while :; do sleep 0.05; done
        exit "$(cat "$BOOK/code")"
    """,
}
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """What the paper programs write down, and are told."""
    book = tmp_path / "book"
    book.mkdir()
    (book / "joined").write_text("2\n")
    (book / "code").write_text("0\n")
    return book


@pytest.fixture
def start(tmp_path: Path, book: Path) -> Iterator[Start]:
    """Runs the script as Slurm would on the first of two nodes, Ray's port being open."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in PAPER.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "deploy").symlink_to(SCRIPT.parents[1])
    started: list[subprocess.Popen[str]] = []
    with socket.create_server(("0.0.0.0", 0)) as ray:
        env = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "BOOK": str(book),
            "BIN": str(programs),
            "RAY_PORT": str(ray.getsockname()[1]),
            "RAY_AUTH_TOKEN": "of another cluster",
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "8",
            "SLURMD_NODENAME": "node-0",
        }

        def run(*words: str, **more: str) -> subprocess.Popen[str]:
            command = ["bash", str(SCRIPT), *(words or ("first", "demo.yaml", "eval.limit=8"))]
            started.append(
                subprocess.Popen(
                    command, env=env | more, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=tmp_path
                )
            )
            return started[-1]

        yield run
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all of it is gone, as it should be


def under_way(book: Path) -> None:
    deadline = time.monotonic() + 20
    while not (book / "rloop").exists():
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.02)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said = process.communicate(timeout=30)[1]
    return process.returncode, said


def test_a_run_gets_the_whole_allocation_and_the_job_ends_as_the_run_does(start: Start, book: Path, tmp_path: Path):
    (book / "code").write_text("1\n")
    code, said = ended(start())
    assert code == 1
    assert "2 nodes at 0.0.0.0" in said
    steps = (book / "srun").read_text().splitlines()  # side by side, so in any order
    ((head,), (workers,)) = ([step for step in steps if ("--head" in step) is is_head] for is_head in (True, False))
    assert "--nodelist=node-0" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert "--nodes=1 --ntasks=1 --exclude=node-0" in workers
    assert (book / "rloop").read_text() == "train demo.yaml eval.limit=8 --name first\n"
    env = dict(line.split("=", 1) for line in (book / "env").read_text().splitlines() if "=" in line)
    assert env["RLOOP_CLUSTER__RUNS_DIR"] == str(tmp_path / "runs")
    assert env["RLOOP_CLUSTER__RAY_ADDRESS"].startswith("0.0.0.0:")
    assert not (book / "scontrol").exists()


def test_the_token_is_the_jobs_own_nobody_elses_to_read_and_goes_with_it(start: Start, book: Path, tmp_path: Path):
    assert ended(start())[0] == 0
    env = (book / "env").read_text()
    assert "RAY_AUTH_MODE=token\n" in env
    assert "RAY_AUTH_TOKEN=" not in env
    assert (book / "mode").read_text() == "600\n"
    assert len(bytes.fromhex((book / "token").read_text())) == 32
    assert list((tmp_path / ".ray").iterdir()) == []


@pytest.mark.parametrize(("number", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_run_that_must_stop_writes_its_checkpoint_and_queues_again_when_only_time_was_short(
    start: Start, book: Path, number: signal.Signals, again: bool
):
    (book / "long").touch()
    process = start()
    under_way(book)
    process.send_signal(number)
    code, said = ended(process)
    assert code == 130
    assert "the run writes a checkpoint" in said
    assert (book / "scontrol").exists() == again
    if again:
        assert (book / "scontrol").read_text() == "requeue 7\n"


def test_nodes_that_do_not_join_are_waited_for_until_the_deadline(start: Start, book: Path):
    (book / "joined").write_text("1\n")
    code, said = ended(start(START_S="1"))
    assert code == 2
    assert "1 of 2 nodes had joined" in said
    assert not (book / "rloop").exists()


def test_a_head_that_ends_is_told_at_once(start: Start, book: Path):
    (book / "broken").touch()
    code, said = ended(start(RAY_PORT="1"))
    assert code == 2
    assert "Ray's head ended on node-0" in said


def test_a_job_without_a_recipe_starts_nothing(start: Start, book: Path):
    code, said = ended(start("first"))
    assert code == 2
    assert "usage: sbatch" in said
    assert not (book / "srun").exists()


def test_slurm_warns_the_script_with_time_for_a_checkpoint():
    options = [line.split()[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "--signal=B:USR1@120" in options  # actors.stop_timeout_s is 60, closing takes 8 more
    assert "--requeue" in options
    assert "--open-mode=append" in options
