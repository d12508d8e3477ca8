"""One rank of two that take each model in turn, run as a process by test_families.py.

Usage: python two_ranks_of_families.py RANK PORT… FOLDER, with `job.pickle` in FOLDER and a port per model. Into
FOLDER/<model> go checkpoint, export, slot and, by rank, a report.
"""

import ctypes
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from rollout.weights import WeightLayout, WeightSlot
from trainer.learner import LearnerRank
from trainer.whole_shelf import WholeShelf


class FakeSender:
    """Remembers what it is to send."""

    def __init__(self) -> None:
        self.offered: dict[str, torch.Tensor] = {}

    def offer(self, side: int, version: int, layout: WeightLayout, tensors: dict[str, torch.Tensor]) -> None:
        self.offered = {name: tensor.clone() for name, tensor in tensors.items()}

    def withdraw(self, side: int) -> None: ...


def report(learner: LearnerRank, rank: int, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Train a step between two probes, then save, stage, gather and export."""
    before, first_hash = learner.probe(job["sequences"]), learner.begin_phase(None, job["optim"], 10)
    metrics = learner.step(job["batch"], "rl")
    learner.save(str(folder / "checkpoint"), optimizer=True)
    layout = learner.layout()
    if rank == 0:
        (folder / "slot").write_bytes(bytes(layout.nbytes))
    torch.distributed.barrier()
    learner.stage(WeightSlot(str(folder / "slot"), layout, 1))
    sender = FakeSender() if rank == 0 else None
    WholeShelf(sender, torch.device("cpu")).put(learner.policy.published(), WeightSlot("", layout, 1), rank, 2)  # type: ignore[arg-type]
    learner.export(str(folder / "export"))
    assert learner.saved(60)
    return {
        "before": before,
        "after": learner.probe(job["sequences"]),
        "first_hash": first_hash,
        "metrics": metrics,
        "layout": layout,
        "offered": sender.offered if sender else {},
    }


def main(rank: int, ports: list[int], folder: Path) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: die with the test
    torch.set_num_threads(1)
    job = pickle.loads((folder / "job.pickle").read_bytes())
    for (name, (model_dir, config)), port in zip(job["models"].items(), ports, strict=True):
        learner = LearnerRank(rank, 2, model_dir, config)
        learner.connect("127.0.0.1", port, 60)
        found = report(learner, rank, folder / name, job)
        (folder / name / f"rank-{rank}.pickle").write_bytes(pickle.dumps(found))
        torch.distributed.barrier()  # a rank that leaves first may cut the other's last collective
        learner.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), list(map(int, sys.argv[2:-1])), Path(sys.argv[-1]))
