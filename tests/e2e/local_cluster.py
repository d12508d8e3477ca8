"""A Ray cluster of several nodes on this machine, started by the commands that a user would type."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
_UP_S = 120.0
_LEASHED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: it takes its node down when the tests die
os.execv(sys.argv[1], sys.argv[1:])
"""
_SMALL = ["--object-store-memory=100000000"]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalCluster:
    """The head computes nothing; every other node has so many CPUs, on paper."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port, self.dashboard_port, self.metrics_port = free_port(), free_port(), free_port()
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.temporary: list[str] = []
        token = {"RAY_AUTH_TOKEN_PATH": str(home / "auth_token"), "RAY_AUTH_MODE": "token"}
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RLOOP_"))} | token
        self.env["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{self.dashboard_port}"

    def start_head(self) -> None:
        """A head without CPUs, whose dashboard is for this machine alone."""
        dashboard = ["--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard_port}"]
        ports = [f"--port={self.port}", f"--metrics-export-port={self.metrics_port}"]
        self._start("--head", "--num-cpus=0", *ports, *dashboard)

    def add_node(self, cpus: int) -> None:
        """One more node."""
        self.temporary.append(tempfile.mkdtemp(prefix="node-"))  # else it shares the head's, and its files
        self._start(f"--address=127.0.0.1:{self.port}", f"--num-cpus={cpus}", f"--temp-dir={self.temporary[-1]}")

    def _start(self, *options: str) -> None:
        # Ranges of ports are per node by default, as they are on machines of their own.
        ports = [f"--dashboard-agent-listen-port={free_port()}", "--min-worker-port=0", "--max-worker-port=0"]
        log = self.home / f"node-{len(self.nodes)}.log"
        command = [
            sys.executable,
            "-c",
            _LEASHED,
            BIN / "ray",
            "start",
            "--block",
            "--disable-usage-stats",
            *_SMALL,
            *options,
            *ports,
        ]
        with log.open("wb") as out:
            node = subprocess.Popen(command, env=self.env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        self.nodes.append(node)
        deadline = time.monotonic() + _UP_S
        while self.raylet(len(self.nodes) - 1) is None:
            text = log.read_text()
            assert node.poll() is None, f"a node ended:\n{text}"
            assert time.monotonic() < deadline, f"a node did not come up:\n{text}"
            time.sleep(0.2)

    def gauges(self, run: str) -> set[str]:
        """Names of a run's metrics on the head, where the drivers of jobs are."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return {line.split("{")[0] for line in lines if line.startswith("ray_rloop_") and f'run="{run}"' in line}

    def raylet(self, index: int) -> psutil.Process | None:
        """The process that is a node, for the rest of the cluster."""
        return next((p for p in _below(self.nodes[index].pid) if p.name() == "raylet"), None)

    def node_of(self, actor: str) -> int:
        """Where an actor of this class runs."""
        for index, node in enumerate(self.nodes):
            if any(p.cmdline()[:1] == [f"ray::{actor}"] or f"ray::{actor}" in p.name() for p in _below(node.pid)):
                return index
        raise LookupError(actor)

    def kill_node(self, index: int) -> None:
        """As when a machine loses its power, as far as one machine can."""
        for process in [*_below(self.nodes[index].pid), psutil.Process(self.nodes[index].pid)]:
            with _gone():
                process.kill()

    def rloop(
        self, *words: str, cwd: Path, timeout_s: float = 120.0, token: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command of the user's, or of somebody's with another token."""
        return subprocess.run(
            [BIN / "rloop", *words],
            cwd=cwd,
            env=self.env | ({"RAY_AUTH_TOKEN_PATH": str(token)} if token else {}),
            timeout=timeout_s,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def stop(self) -> None:
        """End every process of every node."""
        for index, node in enumerate(self.nodes):
            with _gone():
                self.kill_node(index)
            node.wait(10)
        for directory in self.temporary:
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _gone() -> Iterator[None]:
    """What has ended already needs no ending."""
    try:
        yield
    except psutil.NoSuchProcess:
        pass


def _below(pid: int) -> list[psutil.Process]:
    try:
        return [p for p in psutil.Process(pid).children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []
