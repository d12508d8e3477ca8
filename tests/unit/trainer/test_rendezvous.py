import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from trainer.rendezvous import free_port, join_ranks, leave_ranks

SILENT = """
import ctypes, signal, sys, time, torch
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: die with the test
from trainer.rendezvous import join_ranks
join_ranks(1, 2, "127.0.0.1", int(sys.argv[1]), 30, torch.device("cpu"))
print("joined", flush=True)
time.sleep(60)
"""


def test_a_rank_that_joins_and_then_says_nothing_is_a_time_out_of_the_others() -> None:
    port = free_port()
    other = subprocess.Popen([sys.executable, "-c", SILENT, str(port)], stdout=subprocess.PIPE)
    try:
        join_ranks(0, 2, "127.0.0.1", port, 3, torch.device("cpu"))
        with pytest.raises(RuntimeError, match="Timed out waiting"):  # the words that LearnerGroup looks for
            dist.all_reduce(torch.ones(3))
    finally:
        other.kill()
        other.communicate()
        leave_ranks()
