"""One rank of two that loads a model, run as a process by test_loading.py; prints how far its memory grew, in bytes.

Usage: python load_half.py RANK PORT WARM_UP_PORT SMALL_MODEL LARGE_MODEL
"""

import ctypes
import re
import signal
import sys
import threading
from pathlib import Path

import torch

from trainer.config import TrainerConfig
from trainer.learner import LearnerRank


def own_memory() -> int:
    """Bytes of memory that is not a file's."""
    return int(re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) << 10


class Peak:
    """Looks at this process's memory all the time."""

    def __init__(self) -> None:
        self.bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.001):
            self.bytes = max(self.bytes, own_memory())

    def close(self) -> None:
        self._over.set()
        self._thread.join()


def main(rank: int, ports: list[int], models: list[str]) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: die with the test
    torch.set_num_threads(1)
    for model, port in zip(models, ports, strict=True):  # the first so that all is imported that ever will be
        before, peak = own_memory(), Peak()
        learner = LearnerRank(rank, 2, Path(model), TrainerConfig(compute_dtype="float32"))
        learner.connect("127.0.0.1", port, 60)
        peak.close()
        torch.distributed.barrier()
        learner.close()
    print(peak.bytes - before)


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(sys.argv[3]), int(sys.argv[2])], sys.argv[4:])
