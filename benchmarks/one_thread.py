"""Processes of their own with one torch thread each, and clocks for what they do. They die with the benchmark."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from rollout.leash import Leash

PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of one piece of work."""

    wall: float
    cpu: float
    """Of all threads of the process: what the wall clock says on a machine with nothing else to do."""


def timed(work: Callable[[], object]) -> Took:
    """Do it once; ends when the GPU, if there is one, has done its part too."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


def own_process() -> ProcessPoolExecutor:
    """A process with one torch thread that does one thing at a time."""
    return ProcessPoolExecutor(1, get_context("spawn"), _one_thread, (Leash(),))


def _one_thread(_: Leash) -> None:
    torch.set_num_threads(1)
