"""The nodes of a cluster and the room on them: what is free, reservations, and what the nodes see.

Like `actors.ray_app`, whose part it is, it knows Ray.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import ray
import ray.exceptions
from ray._private.state import available_resources_per_node, state
from ray.util.placement_group import (
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.waiting import DeadlineExceeded, this_process, within

_LOOK_TIMEOUT_S = 60.0  # a node starts a process for it


async def answer_of(reference: Any) -> Any:
    """What Ray holds under a reference, once it is there."""
    return await reference


def nodes() -> list[tuple[str, float, float, float, float]]:
    """A name, CPUs and GPUs of every node that is up, as Ray counts them, and how many of them are taken.

    Nodes on one machine have its address in common: their names have a part of their ids too.
    """
    alive = _alive()
    shared = Counter(node["NodeManagerAddress"] for node in alive)
    free = available_resources_per_node()
    found = []
    for node in alive:
        address, all_, left = node["NodeManagerAddress"], node["Resources"], free.get(node["NodeID"], {})
        name = address if shared[address] == 1 else f"{address} ({node['NodeID'][:6]})"
        cpus, gpus = all_.get("CPU", 0.0), all_.get("GPU", 0.0)
        found.append((name, cpus, gpus, cpus - left.get("CPU", 0.0), gpus - left.get("GPU", 0.0)))
    return found


def draining_nodes() -> set[str]:
    """Ids of the nodes that are about to go: they take nobody any more. A spot notice, or a smaller cluster."""
    return set(state.get_draining_nodes())


async def nodes_that_miss(file: str) -> list[str]:
    """Addresses of the nodes on which there is no such file; who does not answer in time counts as one."""

    async def missing(node: Mapping[str, Any]) -> bool:
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(num_cpus=0, max_retries=0)(os.path.exists).options(scheduling_strategy=where)
        what = f"{this_process()} waits for node {node['NodeManagerAddress']} to look for {file}"
        try:
            return not await within(_LOOK_TIMEOUT_S, answer_of(task.remote(file)), what)
        except (DeadlineExceeded, ray.exceptions.RayError):
            return True

    alive = _alive()
    misses = await asyncio.gather(*map(missing, alive))
    return [node["NodeManagerAddress"] for node, miss in zip(alive, misses, strict=True) if miss]


def is_one_host() -> bool:
    """True when every node of the cluster that is up is on one machine."""
    return len({node["NodeManagerAddress"] for node in _alive()}) == 1


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


class Reservation:
    """Room asked for, in so many equal parts, together on as few nodes as there is room on: all of it or nothing.

    The autoscaler sees what is not granted yet.
    """

    bundle = 0

    def __init__(self, cpus: float, gpus: float, count: int = 1) -> None:
        bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
        self.group = placement_group([bundle] * count, strategy="PACK")

    def granted(self) -> bool:
        """Whether nodes have it."""
        return bool(placement_group_table(self.group)["state"] == "CREATED")  # a wait of no time often misses it

    def free(self) -> None:
        """Give it back, with whoever sits there, or ask for it no longer."""
        remove_placement_group(self.group)
