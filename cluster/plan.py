"""`rloop plan RECIPE`: who would run where, and what each would take of a GPU or of main memory. Starts nothing.

The nodes are those of a cluster file, of the Ray cluster that the recipe names, or this machine.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from cluster.cluster_file import nodes_of
from cluster.config import RunConfig
from cluster.exits import Exit
from cluster.machine import GIB, MIB, need
from cluster.model_files import ModelFacts
from cluster.placement import Crew, Node, Placement, asks_for_gpus, crews, place
from cluster.plural import plural
from cluster.preflight import model_of
from cluster.ray_cluster import joined, nodes
from cluster.rules import advice
from cluster.settings import Refused
from rollout.weights import ITEM_SIZES
from trainer.memory import RankMemory, Shape, rank_memory

_CONTEXT_GIB = 1.0  # what CUDA, NCCL and fragmentation take besides, about


def show_plan(config: RunConfig, cluster_file: Path | None, gpu_gib: float | None, console: Console) -> Exit:
    """Print the layout of a run, its memory, and advice.

    Args:
        config: The run.
        cluster_file: Ray cluster YAML or KubeRay manifest; None for the cluster that the run would join, or start.
        gpu_gib: Memory of a GPU, to hold the reckoning against.
        console: Where to.

    Raises:
        Refused: When the model cannot be read, or not everybody finds room; after the tables.
    """
    model, _, problems = model_of(config)
    if model is None:
        raise Refused(problems)
    there = nodes_of(cluster_file) if cluster_file else _nodes_of(config)
    on_gpu = asks_for_gpus(config, there)
    needed = crews(config, on_gpu)
    placement = place(needed, there)
    console.print(f"{config.cluster.name}: {model.name}, {plural(len(there), 'node')}", highlight=False)
    console.print(_layout(needed, there, placement))
    console.print(_gpu_memory(config, model, gpu_gib) if on_gpu else _main_memory(config, model))
    for sentence in advice(config):
        console.print(f"note: {sentence}", highlight=False, soft_wrap=True, markup=False)
    short = _too_large(config, model, gpu_gib) if on_gpu and gpu_gib else []
    if placement.problems or short:
        raise Refused([*placement.problems, *short])
    console.print("Everybody finds room; nothing was started.")
    return Exit.DONE


def _nodes_of(config: RunConfig) -> list[Node]:
    """Of the Ray cluster that the run would join, or of the one that it would start here."""
    if config.cluster.ray_address is None:
        gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
        return [Node("this machine", math.inf, gpus)]  # a cluster of its own counts as many CPUs as are asked for
    with joined(config) as ray_app:
        return nodes(ray_app)


def _layout(needed: Sequence[Crew], nodes: Sequence[Node], placement: Placement) -> Table:
    table = Table(box=box.SIMPLE)
    table.add_column("node")
    for crew in needed:
        table.add_column(f"{crew.role}s", justify="right")
    table.add_column("GPUs", justify="right")
    table.add_column("CPUs", justify="right")
    for node in nodes:
        here = placement.homes[node.name]
        used = [sum(getattr(crew, kind) * here[crew.role] for crew in needed) for kind in ("gpus", "cpus")]
        counts = [str(here[crew.role] or "") for crew in needed]
        offers = [
            f"{mine:g}{'' if math.isinf(all_) else f' of {all_:g}'}"
            for mine, all_ in zip(used, (node.gpus, node.cpus), strict=True)
        ]
        table.add_row(node.name, *counts, *offers)
    return table


def learner_memory(config: RunConfig, shape: Shape) -> RankMemory:
    """What a learner rank takes of its GPU, by `trainer.memory`'s formula."""
    trainer = config.trainer
    return rank_memory(
        shape,
        trainer.ranks,
        trainer.micro_batch_tokens,
        checkpointing=trainer.activation_checkpointing,
        adapter_parameters=_adapters(shape, trainer.lora.rank),
        moment_bytes=2 if trainer.rl.optim.name == "adamw_8bit" else 8,
        reference=bool(trainer.rl.kl.weight) and not trainer.lora.rank,
    )


def _adapters(shape: Shape, rank: int) -> int:
    """Parameters of adapters on every linear layer of the blocks, about: a matrix n x m has r (n + m)."""
    blocks = shape.parameters - shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    return 2 * rank * blocks // max(shape.hidden, 1)


def engine_bytes(config: RunConfig, model: ModelFacts) -> tuple[int, int | None]:
    """Weights and KV cache on each GPU of an engine; None: the cache takes what the GPU has left."""
    engine = config.rollout.engine
    weights = model.parameters * ITEM_SIZES[engine.dtype] // engine.tensor_parallel
    return weights, None if engine.kv_cache_mb is None else engine.kv_cache_mb * MIB


def handed_over_bytes(config: RunConfig, model: ModelFacts) -> int:
    """Versions that a learner rank keeps on its GPU for the engine beside it: two, by CUDA-IPC, else none."""
    whole = model.parameters * ITEM_SIZES[config.rollout.engine.dtype]
    return 2 * whole if config.actors.weight_transport == "ipc" else 0


def _gpu_memory(config: RunConfig, model: ModelFacts, gpu_gib: float | None) -> Table:
    table = Table(title="memory of a GPU, by formula", box=box.SIMPLE, title_justify="left")
    for column in ("of a", "GiB", "for"):
        table.add_column(column, justify="right" if column == "GiB" else "left")
    rank, (weights, cache) = learner_memory(config, model.shape), engine_bytes(config, model)
    parts = {
        "shards": rank.shards,
        "gathered weights": rank.gathered,
        "activations": rank.activations,
        "log-probs": rank.logits,
    }
    if copies := handed_over_bytes(config, model):
        parts["weights for the engine"] = copies
    taken = f"{sum(parts.values()) / GIB:.1f}"
    table.add_row("learner rank", taken, ", ".join(f"{n} {b / GIB:.1f}" for n, b in parts.items()))
    kept = "what is left for the KV cache" if cache is None else f"KV cache {cache / GIB:.1f}"
    table.add_row("rollout worker", f"{(weights + (cache or 0)) / GIB:.1f}", f"weights {weights / GIB:.1f}, {kept}")
    if gpu_gib:
        table.add_row("GPU", f"{gpu_gib:g}", f"besides, CUDA and NCCL take about {_CONTEXT_GIB:g}")
    return table


def _too_large(config: RunConfig, model: ModelFacts, gpu_gib: float) -> list[str]:
    room = (gpu_gib - _CONTEXT_GIB) * GIB
    rank = learner_memory(config, model.shape).total + handed_over_bytes(config, model)
    weights, cache = engine_bytes(config, model)
    one = model.kv_values_per_token * ITEM_SIZES[config.rollout.engine.dtype] * config.rollout.context_length
    taken = weights + (one // config.rollout.engine.tensor_parallel if cache is None else cache)
    problems, colocated = [], config.cluster.layout == "colocated"
    both = rank + taken + _CONTEXT_GIB * GIB  # two processes
    if colocated and max(rank, taken) <= room < both:
        problems.append(
            f"a pair takes about {rank / GIB:.1f} GiB for the learner rank and {taken / GIB:.1f} for the engine, a GPU "
            f"has {gpu_gib:g}; lower rollout.engine.kv_cache_mb or trainer.micro_batch_tokens, or raise trainer.ranks"
        )
    if rank > room:
        problems.append(
            f"a learner rank takes about {rank / GIB:.1f} GiB, a GPU has {gpu_gib:g}; raise trainer.ranks, lower "
            "trainer.micro_batch_tokens, or set trainer.activation_checkpointing=true or trainer.lora.rank"
        )
    if taken > room:
        problems.append(
            f"an engine takes about {taken / GIB:.1f} GiB of each of its GPUs, which have {gpu_gib:g}; "
            f"{'' if colocated else 'raise rollout.engine.tensor_parallel or '}lower rollout.engine.kv_cache_mb"
        )
    return problems


def _main_memory(config: RunConfig, model: ModelFacts) -> Table:
    table = Table(title="main memory, all nodes together, by formula", box=box.SIMPLE, title_justify="left")
    for column in ("for", "GiB"):
        table.add_column(column, justify="right" if column == "GiB" else "left")
    wanted = need(config, model, has_gpu=False)
    for name, size in (
        ("learner ranks", wanted.learner),
        ("engines", wanted.engines),
        ("weights in transfer", wanted.weight_slots),
        ("processes", wanted.processes),
        ("object store", wanted.object_store),
    ):
        table.add_row(name, f"{size / GIB:.2f}")
    return table
