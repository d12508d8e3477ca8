"""What this machine has, and what a run will take of it. Estimates, on the careful side."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.config import RunConfig
from cluster.model_files import ModelFacts
from rollout.engine_env import CPU_HEAD_DIMS
from rollout.weights import ITEM_SIZES
from trainer.config import TrainerConfig

MIB, GIB = 1 << 20, 1 << 30
_PROCESS_GIB = {"engine": 1.3, "rank": 0.8, "actor": 0.3, "verifier": 0.1, "ray": 0.5}  # measured, without the model


@dataclass(frozen=True, slots=True)
class Machine:
    """What is free here."""

    memory: int
    """Bytes that can be taken without swapping, container limit included."""
    shared_memory: int
    """Bytes free in /dev/shm."""
    cores: int
    has_gpu: bool

    @classmethod
    def here(cls) -> "Machine":
        """This machine, now."""
        shm = Path("/dev/shm")
        return cls(
            memory=min(psutil.virtual_memory().available, _container_headroom()),
            shared_memory=shutil.disk_usage(shm).free if shm.exists() else 0,
            cores=len(os.sched_getaffinity(0)),
            has_gpu=Path("/dev/nvidia0").exists(),
        )


def _container_headroom() -> int:
    """Bytes left below the cgroup's limit; a very large number when there is none."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (folder / "memory.max").read_text().strip(), (folder / "memory.current").read_text()
    except OSError:
        return 1 << 62
    return 1 << 62 if limit == "max" else int(limit) - int(used)


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a run takes of this machine's memory, by what for."""

    learner: int
    engines: int
    weight_slots: int
    processes: int
    object_store: int

    @property
    def memory(self) -> int:
        """All of it; on CPU everything lies in main memory."""
        return self.learner + self.engines + self.weight_slots + self.processes + self.object_store


def need(config: RunConfig, model: ModelFacts, has_gpu: bool, trained: bool = True) -> Need:
    """Estimate of what a run takes at its peak; one copy per engine, and two slots for the transfer.

    Without a learner (an evaluation) there is nothing to transfer, and of the actors only the buffer.
    """
    item = ITEM_SIZES[config.rollout.engine.dtype]
    workers = config.actors.max_rollout_workers or config.actors.rollout_workers
    copies = model.parameters * item
    fixed = (
        _PROCESS_GIB["engine"] * workers
        + _PROCESS_GIB["rank"] * config.trainer.ranks * trained
        + _PROCESS_GIB["verifier"] * config.verifier.processes
        + _PROCESS_GIB["actor"] * (3 if trained else 1)  # buffer, broadcaster, controller
        + _PROCESS_GIB["ray"]
    )
    return Need(
        learner=(_staged_bytes if has_gpu else _learner_bytes)(config.trainer) * model.parameters if trained else 0,
        engines=0 if has_gpu else workers * (copies + (config.rollout.engine.kv_cache_mb or 0) * MIB),
        weight_slots=2 * copies if trained else 0,
        processes=int(fixed * GIB),
        object_store=0 if config.cluster.ray_address else config.cluster.object_store_mb * MIB,
    )


def _learner_bytes(trainer: TrainerConfig) -> int:
    """Per parameter, all ranks on CPUs together, in float32.

    Shards of weights and two moments, the copy of them that is being written, a reference; and on every rank the
    gathered weights and their gradient. With adapters only the frozen weights count, and what is gathered of them.
    """
    if trainer.lora.rank:
        return 4 + 4 * trainer.ranks
    reference = 4 if trainer.rl.kl.weight else 0
    return 12 + 12 + reference + 8 * trainer.ranks


def _staged_bytes(trainer: TrainerConfig) -> int:
    """Per parameter, in main memory beside GPUs, all ranks together.

    The copy of weights and moments that is being written to a checkpoint, and what is kept off the GPUs.
    """
    if trainer.lora.rank:
        return 4 if trainer.cpu_offload else 0
    return 12 + (16 if trainer.cpu_offload else 0)


def shortages(config: RunConfig, model: ModelFacts, machine: Machine, trained: bool = True) -> list[str]:
    """A sentence per kind of memory that the run would run out of."""
    wanted, problems = need(config, model, machine.has_gpu, trained), []
    if config.cluster.ray_address is None and wanted.memory > machine.memory:
        parts = ", ".join(
            f"{name} {size / GIB:.1f}"
            for name, size in (
                ("learner", wanted.learner),
                ("engines", wanted.engines),
                ("weights in transfer", wanted.weight_slots),
                ("processes", wanted.processes),
                ("object store", wanted.object_store),
            )
        )
        problems.append(
            f"the run needs about {wanted.memory / GIB:.1f} GiB of memory and {machine.memory / GIB:.1f} GiB is free "
            f"({parts}); lower actors.rollout_workers, rollout.engine.kv_cache_mb or the model, or free memory"
        )
    if wanted.object_store > machine.shared_memory:
        problems.append(
            f"/dev/shm must hold Ray's object store of {wanted.object_store // MIB} MiB, "
            f"{machine.shared_memory // MIB} MiB is free; lower cluster.object_store_mb, remove "
            "stale files there, or start the container with a larger --shm-size"
        )
    if not machine.has_gpu and config.cluster.ray_address is None and model.head_dim not in CPU_HEAD_DIMS:
        problems.append(
            f"the engine's CPU build takes models with attention heads {', '.join(map(str, CPU_HEAD_DIMS))} wide, "
            f"{model.name} has {model.head_dim}; take another model, or a machine with a GPU"
        )
    item, kv_cache = ITEM_SIZES[config.rollout.engine.dtype], config.rollout.engine.kv_cache_mb
    one = model.kv_values_per_token * item * config.rollout.context_length
    if kv_cache is not None and one > kv_cache * MIB:
        problems.append(
            "rollout.engine.kv_cache_mb must hold one sequence of rollout.context_length="
            f"{config.rollout.context_length}, which takes {-(-one // MIB)} MiB, got "
            f"{kv_cache}; raise it or shorten the context"
        )
    if model.max_positions is not None and config.rollout.context_length > model.max_positions:
        problems.append(
            f"rollout.context_length must not exceed the model's max_position_embeddings, got "
            f"{config.rollout.context_length} and {model.max_positions}; use {model.max_positions} or less"
        )
    return problems
