"""A process that makes one step per objective as one rank of two, then as one of four; see test_objectives.py.

Usage: python objective_ranks.py RANK PORT_OF_TWO PORT_OF_FOUR FOLDER, with `job.pickle` in FOLDER. Rank 0 writes
`ranks-2.pickle` and `ranks-4.pickle`: per objective its metrics, and the gradient of every tensor.
"""

import ctypes
import pickle
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from rollout.records import TrainingBatch
from trainer.batching import split_by_groups
from trainer.config import OptimConfig
from trainer.fsdp import ShardedPolicy, Sharding
from trainer.loading import empty_policy, load_shards
from trainer.objectives import Objective
from trainer.optim import ShardedAdamW
from trainer.reference import Reference
from trainer.rendezvous import join_ranks, leave_ranks
from trainer.stored_names import parts_of
from trainer.stored_tensors import StoredTensors
from trainer.updates import Trainer

CPU = torch.device("cpu")


def one_step(
    model_dir: Path, mesh: Any, batch: TrainingBatch, objective: Objective, minibatches: int, max_tokens: int
) -> dict[str, Any]:
    """Metrics of a step, and of its last update the gradients (clipped to 1) by name."""
    empty, stored = (
        empty_policy(model_dir, "auto", "float32", CPU, "values" in objective.needs),
        StoredTensors(model_dir),
    )
    policy = ShardedPolicy(empty, mesh, Sharding())
    load_shards(policy, stored, parts_of(empty.lm, stored))
    for name, shard in policy.shards().items():
        if name.startswith("value_head"):  # so that values differ
            shard.copy_(torch.linspace(-1, 1, shard.numel()).view_as(shard))
    reference = Reference({name: shard * 1.02 for name, shard in policy.shards().items()})
    optim = OptimConfig(lr=1e-4, beta1=0.0)  # the first moment is the gradient
    optimizer = ShardedAdamW(policy.shards(), frozenset(), optim, 1)
    trainer = Trainer(policy, 0.8, max_tokens, 1.0, 100.0, reference)
    metrics = trainer.train(split_by_groups(batch, minibatches), objective, optimizer)
    gradients = {}
    for name, key, moment in optimizer.moments():
        if key != "exp_avg":
            continue
        policy.shards()[name].copy_(moment)
        gradients[name] = policy.trained[name].full_tensor().detach().numpy().copy()
    return {"metrics": metrics, "gradients": gradients}


def be_one_of(world_size: int, rank: int, port: int, folder: Path) -> None:
    job: dict[str, Any] = pickle.loads((folder / "job.pickle").read_bytes())
    mesh = join_ranks(rank, world_size, "127.0.0.1", port, 120, CPU)
    report = {
        name: one_step(job["model_dir"], mesh, batch, objective, minibatches, job["max_tokens"])
        for name, (batch, objective, minibatches) in job["cases"].items()
    }
    if rank == 0:
        (folder / f"ranks-{world_size}.pickle").write_bytes(pickle.dumps(report))
    dist.barrier()
    leave_ranks()


def main(rank: int, port_of_two: int, port_of_four: int, folder: Path) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: die with the test
    torch.set_num_threads(1)
    if rank < 2:
        be_one_of(2, rank, port_of_two, folder)
    be_one_of(4, rank, port_of_four, folder)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
