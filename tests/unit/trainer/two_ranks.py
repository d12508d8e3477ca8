"""One rank of a two-rank learner, run as a process by test_learner.py: trains, stages, saves, exports, reports.

Then the two and a third process become a three-rank learner, which loads what the two saved.

Usage: python two_ranks.py RANK PORT PORT_OF_THREE FOLDER, with `job.pickle` in FOLDER; ranks 0 and 1 write
`rank-RANK.pickle` there, and all three `of-three-RANK.pickle`.
"""

import ctypes
import dataclasses
import faulthandler
import pickle
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from rollout.weights import WeightSlot
from trainer.checkpoints import hash_weights, state_of
from trainer.directories import NotWritten
from trainer.learner import LearnerRank
from trainer.whole_shelf import WholeShelf


class FakeSender:
    """Remembers what it is to send."""

    offered: list[tuple[int, int, dict[str, torch.Tensor]]] = []  # noqa: RUF012

    def offer(self, side: int, version: int, layout: Any, tensors: Any) -> None:
        self.offered.append((side, version, {name: tensor.clone() for name, tensor in tensors.items()}))

    def withdraw(self, side: int) -> None: ...


def main(rank: int, port: int, port_of_three: int, folder: Path) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: die with the test
    faulthandler.enable()
    torch.set_num_threads(1)
    job: dict[str, Any] = pickle.loads((folder / "job.pickle").read_bytes())
    if rank < 2:
        be_one_of_two(rank, port, folder, job)
    be_one_of_three(rank, port_of_three, folder, job)


def be_one_of_two(rank: int, port: int, folder: Path, job: dict[str, Any]) -> None:
    learner = LearnerRank(rank, 2, job["model_dir"], job["config"])
    learner.connect("127.0.0.1", port, 60)
    report: dict[str, Any] = {"first_hash": learner.begin_phase(None, job["optim"], 10)}
    report["probe"] = learner.probe(job["sequences"])
    report["nll"] = learner.nll(job["batch"])
    learner.save(str(folder / "start"), optimizer=False)
    assert learner.saved(60)
    report["metrics"] = learner.step(job["batch"], "rl")
    report["hash"] = learner.weights_hash()
    behaviour = job["batch"].behaviour_logprobs.copy()
    behaviour[np.flatnonzero(job["batch"].loss_mask)[0]] = np.nan  # one token: only one rank computes with it
    poisoned = dataclasses.replace(job["batch"], behaviour_logprobs=behaviour)
    report["skipped"] = learner.step(poisoned, "rl")["skipped"]
    report["hash_after_refusal"] = learner.weights_hash()
    torch.manual_seed(rank)
    report["state"] = state_hash(learner)
    learner.save(str(folder / "checkpoint"), optimizer=True)
    report["draw"] = torch.rand(3)
    learner.step(job["batch"], "rl")  # while it is written
    report["hash_after_another_step"] = learner.weights_hash()
    assert learner.saved(60)
    report["refused"] = refused_by_the_disk_of_rank_1(learner, rank, folder / "refused")
    learner.resume(str(folder / "checkpoint"), None, job["optim"], 10)
    report["state_on_two"], report["draw_again"] = state_hash(learner), torch.rand(3)
    layout = learner.layout()
    learner.stage(WeightSlot(str(folder / "slot"), layout, 7))
    shelf = WholeShelf(FakeSender() if rank == 0 else None, torch.device("cpu"))  # type: ignore[arg-type]
    for version in (7, 9):
        shelf.put(learner.policy.published(), WeightSlot("", layout, version, side=1), rank, 2)
    report["offered"] = FakeSender.offered
    learner.export(str(folder / "export"))
    report["layout"] = layout
    report["merged"] = learner.merge([(str(folder / "start"), 0.75), (str(folder / "checkpoint"), 0.25)])
    (folder / f"rank-{rank}.pickle").write_bytes(pickle.dumps(report))
    wait_for(folder / f"rank-{1 - rank}.pickle", 60)  # a rank that leaves first may cut the other's last collective
    learner.close()
    learner.close()


def refused_by_the_disk_of_rank_1(learner: LearnerRank, rank: int, directory: Path) -> str:
    """The sentence of a save in which only one rank cannot write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, hard))
    learner.save(str(directory), optimizer=True)
    try:
        learner.saved(60)
    except NotWritten as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    return ""


def be_one_of_three(rank: int, port: int, folder: Path, job: dict[str, Any]) -> None:
    learner = LearnerRank(rank, 3, job["model_dir"], job["config"])
    learner.connect("127.0.0.1", port, 100)
    learner.resume(str(folder / "checkpoint"), None, job["optim"], 10)
    report: dict[str, Any] = {"hash": learner.weights_hash()}
    report["state"] = state_hash(learner)
    report["counters"] = (learner.optimizer.steps_done, learner.optimizer.updates)
    report["draw"] = torch.rand(3)
    (folder / f"of-three-{rank}.pickle").write_bytes(pickle.dumps(report))
    for other in range(3):
        wait_for(folder / f"of-three-{other}.pickle", 60)
    learner.close()


def state_hash(learner: LearnerRank) -> str:
    """Of weights and moments, whole ones: the same on any number of ranks."""
    state = state_of(learner.policy.trained, learner.optimizer)
    return hash_weights({name: tensor for name, tensor in state if isinstance(tensor, DTensor)})


def wait_for(path: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for the other rank's {path.name}")
        time.sleep(0.01)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
