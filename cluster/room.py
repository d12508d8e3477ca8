"""Whether a cluster has room for a run, now or within the time that it may take to grow."""

import asyncio
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.placement import Crew, Node, asks_for_gpus, crews, place
from cluster.ray_cluster import nodes
from cluster.settings import Refused

if TYPE_CHECKING:
    from cluster.config import RunConfig

_FREED_S = 10.0  # until everybody knows that a reservation is gone


def uses_gpus(config: "RunConfig", nodes: Sequence[Node]) -> bool:
    """Whether engines and learner ranks take GPUs.

    Ray counts a node's GPUs whatever builds of torch and vLLM are installed; a CPU build cannot use them.
    """
    cannot = config.cluster.device == "auto" and version("torch").endswith("+cpu")
    return asks_for_gpus(config, nodes) and not cannot


def crews_in(config: "RunConfig", there: Sequence[Node], learns: bool = True) -> tuple[Crew, ...]:
    """Who needs room on these nodes.

    Raises:
        Refused: When not everybody finds it.
    """
    needed = crews(config, uses_gpus(config, there), learns)
    if problems := place(needed, there).problems:
        raise Refused(list(problems))
    return needed


async def require_shared(file: Path, ray_app: Any) -> None:
    """Every process of a run writes into its directory, wherever it is.

    Raises:
        Refused: When `file`, which is in it, cannot be seen from every node.
    """
    if ray_app.is_one_host():
        return
    if misses := await ray_app.nodes_that_miss(str(file.resolve())):
        raise Refused(
            [
                f"cluster.runs_dir: {file.resolve().parent} is not seen from {', '.join(misses)}; name a directory "
                "that every node of the cluster mounts under the same path"
            ]
        )


async def nodes_with_room(
    config: "RunConfig",
    ray_app: Any,
    tell: Callable[[str], object],
    learns: bool = True,
    look_every_s: float = 1.0,
) -> list[Node]:
    """The nodes of the cluster, once there is room for everybody, or `cluster.wait_for_nodes_s` have passed.

    Meanwhile places for everybody are asked for: Ray's autoscaler sees that, and starts nodes.
    """
    there, patience_s = nodes(ray_app), config.cluster.wait_for_nodes_s
    needed = crews(config, uses_gpus(config, there), learns)
    if not patience_s or not place(needed, there).problems:
        return there
    deadline = time.monotonic() + patience_s
    seats = [
        ray_app.Reservation(crew.cpus, crew.gpus)
        for crew in needed
        for _ in range(crew.count)
        if crew.cpus or crew.gpus
    ]
    try:
        while (granted := sum(seat.granted() for seat in seats)) < len(seats) and time.monotonic() < deadline:
            left = deadline - time.monotonic()
            tell(f"nodes: room for {granted} of {len(seats)}; {left:.0f} s more (cluster.wait_for_nodes_s)")
            await asyncio.sleep(look_every_s)
    finally:
        for seat in seats:
            seat.free()
    freed = time.monotonic() + _FREED_S
    while place(needed, there := nodes(ray_app)).problems and granted == len(seats) and time.monotonic() < freed:
        await asyncio.sleep(look_every_s / 5)
    return there
