"""Runs a command to its end and says what CPU time its whole process tree took, by kind of work and over any window."""

import signal
import subprocess
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import psutil

from rollout.leash import end_with_parent

EVERY_S = 0.5
END_S = 30.0
"""How long a command may take to end when it is told to."""
REST = "everything else"
_LEASHED = partial(end_with_parent, signal.SIGTERM)


def run(command: Sequence[str], folder: Path, log: Path, kinds: Mapping[str, str], deadline_s: float) -> "ProcessTree":
    """Run `command` in `folder`, its output in `log`.

    Raises `RuntimeError` with the end of the log when it fails or is not done in time; then it is ended.
    """
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=out, stdin=subprocess.DEVNULL, preexec_fn=_LEASHED
        )
        tree = ProcessTree(process.pid, kinds)
        try:
            code = process.wait(deadline_s)
        except BaseException as error:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(END_S)
            if isinstance(error, subprocess.TimeoutExpired):
                raise RuntimeError(f"{command[:4]} was not done in {deadline_s:g} s; its log is {log}") from None
            raise
        finally:
            tree.stop()
    if code:
        end = "\n".join(log.read_text().splitlines()[-20:])
        raise RuntimeError(f"{' '.join(command[:4])} … ended with code {code}; its log, {log}, ends with\n{end}")
    return tree


class ProcessTree:
    """CPU seconds of a process and its descendants, sampled from construction to `stop`."""

    def __init__(self, root: int, kinds: Mapping[str, str]) -> None:
        """`kinds` maps a piece of a command line to its kind; a process without a match is of its parent's kind."""
        self.began = time.time()
        self._root = psutil.Process(root)
        self._kinds = kinds
        self._spent: dict[int, tuple[str, float]] = {}  # kind and CPU seconds by process id; also of those that ended
        self._samples: list[tuple[float, Counter[str]]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def between(self, began: float, ended: float) -> dict[str, float]:
        """CPU seconds by kind between two points in time (seconds since 1970), each as of the sample after it."""
        return dict(self._at(ended) - self._at(began))

    def _at(self, moment: float) -> Counter[str]:
        index = bisect_left(self._samples, moment, key=lambda sample: sample[0])
        return self._samples[min(index, len(self._samples) - 1)][1]

    def _watch(self) -> None:
        while not self._stopped.wait(EVERY_S):
            try:
                self._sample()
            except psutil.NoSuchProcess:
                return  # the root has ended

    def _sample(self) -> None:
        kinds = {self._root.pid: REST}
        for process in [self._root, *self._root.children(recursive=True)]:
            try:
                title = " ".join(process.cmdline())
                inherited = kinds.get(process.ppid(), REST)
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            kind = next((kind for piece, kind in self._kinds.items() if piece in title), inherited)
            kinds[process.pid] = kind
            self._spent[process.pid] = kind, times.user + times.system
        total: Counter[str] = Counter()
        for kind, seconds in self._spent.values():
            total[kind] += seconds
        self._samples.append((time.time(), total))
