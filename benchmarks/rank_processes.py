"""A learner whose ranks are processes of their own, as in a run, without Ray."""

from pathlib import Path

from one_thread import PATIENCE_S, Took, own_process, timed

from rollout.records import TrainingBatch
from trainer.config import OptimConfig, TrainerConfig
from trainer.learner import LearnerRank
from trainer.rendezvous import free_port


class RankProcesses:
    """A learner of `world_size` ranks, each in a process of its own."""

    def __init__(self, world_size: int, model_dir: Path, config: TrainerConfig) -> None:
        self._processes = [own_process() for _ in range(world_size)]
        port = free_port()
        connecting = [
            process.submit(_connect, rank, world_size, model_dir, config, port)
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


def _connect(rank: int, world_size: int, model_dir: Path, config: TrainerConfig, port: int) -> None:
    global _learner
    _learner = LearnerRank(rank, world_size, model_dir, config)
    _learner.connect("127.0.0.1", port, PATIENCE_S)
    _learner.begin_phase(None, OptimConfig(), 1000)


def _step(batch: TrainingBatch) -> Took:
    return timed(lambda: _learner.step(batch, "rl"))
