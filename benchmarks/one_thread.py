"""Processes of their own with one torch thread each, and clocks for what they do. They die with the benchmark."""

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from rollout.leash import Leash
from rollout.records import TrainingBatch

PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of one piece of work."""

    wall: float
    cpu: float
    """Of all threads of the process: what the wall clock says on a machine with nothing else to do."""


def timed(work: Callable[[], object]) -> Took:
    """Do it once; ends when the GPU, if there is one, has done its part too."""
    import torch

    wall, cpu = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Took(time.perf_counter() - wall, time.process_time() - cpu)


def own_process() -> ProcessPoolExecutor:
    """A process with one torch thread that does one thing at a time."""
    return ProcessPoolExecutor(1, get_context("spawn"), _one_thread, (Leash(),))


def _one_thread(_: Leash) -> None:
    import torch

    torch.set_num_threads(1)


class RankProcesses:
    """A learner of `world_size` ranks, each in a process of its own."""

    def __init__(self, world_size: int, model_dir: Path, max_tokens: int) -> None:
        from trainer.rendezvous import free_port

        self._processes = [own_process() for _ in range(world_size)]
        port = free_port()
        connecting = [
            process.submit(_connect, rank, world_size, model_dir, max_tokens, port)
            for rank, process in enumerate(self._processes)
        ]
        for future in connecting:
            future.result(PATIENCE_S)

    def step(self, batch: TrainingBatch) -> Took:
        """One step; wall and CPU seconds are each those of the rank with most."""
        steps = [process.submit(_step, batch) for process in self._processes]
        took = [future.result(PATIENCE_S) for future in steps]
        return Took(max(t.wall for t in took), max(t.cpu for t in took))

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.shutdown()


def _connect(rank: int, world_size: int, model_dir: Path, max_tokens: int, port: int) -> None:
    global _learner
    from trainer.config import OptimConfig, TrainerConfig
    from trainer.learner import LearnerRank

    config = TrainerConfig(compute_dtype="float32", micro_batch_tokens=max_tokens)
    _learner = LearnerRank(rank, world_size, model_dir, config)
    _learner.connect("127.0.0.1", port, PATIENCE_S)
    _learner.begin_phase(None, OptimConfig(), 1000)


def _step(batch: TrainingBatch) -> Took:
    return timed(lambda: _learner.step(batch, "rl"))


@dataclass(frozen=True, slots=True)
class HeadRun:
    """Log-probs of `tokens` tokens from hidden states, forward and backward."""

    took: Took
    mib: float
    """Highest resident memory during it, less that before it: activations and gradients."""


def run_head(chunked: bool, tokens: int, hidden_size: int, vocab_size: int) -> HeadRun:
    """Once, in a process that does nothing else: its peak is never taken back."""
    import torch

    from trainer.logprobs import token_logprobs

    hidden = torch.randn(tokens, hidden_size, requires_grad=True)
    weight = torch.randn(vocab_size, hidden_size).mul_(0.02).requires_grad_()
    targets = torch.randint(0, vocab_size, (tokens,))

    def full() -> None:
        logits = hidden @ weight.T
        logits.log_softmax(-1).gather(-1, targets[:, None]).sum().backward()

    def in_chunks() -> None:
        token_logprobs(hidden, weight, targets, 1.0)[0].sum().backward()

    before = _peak_mib()
    took = timed(in_chunks if chunked else full)
    return HeadRun(took, _peak_mib() - before)


def _peak_mib() -> float:
    """Highest resident memory of this process; `ru_maxrss` would begin with that of the process that spawned it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
