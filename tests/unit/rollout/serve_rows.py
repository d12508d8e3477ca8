"""A learner rank that serves rows, run as a process by test_tcp.py: two tensors of ones, cut in two, are version 3.

Usage: python serve_rows.py RANK; prints the source as JSON and serves until it is killed. A rank 9 serves too much for
any buffer, so that it can be killed in the middle.
"""

import ctypes
import json
import signal
import sys
import time
from dataclasses import asdict

import numpy as np

from rollout.transports.tcp import RowServer

HUGE = 1 << 30


def main(rank: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: die with the test
    server = RowServer("127.0.0.1")
    if rank == 9:
        server.offer(0, 3, np.zeros(HUGE, np.uint8), [(0, HUGE)])
    else:
        file = np.random.default_rng(3).integers(0, 256, 10_000).astype(np.uint8)
        server.offer(0, 3, file, [(0, 3_001), (6_000, 0), (7_000, 1_000)] if rank == 0 else [(3_001, 3_999)])
    print(json.dumps(asdict(server.source)), flush=True)
    time.sleep(120)


if __name__ == "__main__":
    main(int(sys.argv[1]))
