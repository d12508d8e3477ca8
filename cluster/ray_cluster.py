"""The Ray cluster of a run: joined, or started here, for as long as a context lasts."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from actors.ray_settings import prepare_local_cluster, shows_token
from cluster.placement import Node
from cluster.settings import Refused

if TYPE_CHECKING:
    from cluster.config import RunConfig


@contextlib.contextmanager
def joined(config: "RunConfig") -> Iterator[Any]:
    """The wrapping module `actors.ray_app`, in a cluster. Imported late: Ray reads its authentication mode on import.

    Raises:
        Refused: When the cluster that was asked for cannot be joined.
    """
    cluster = config.cluster
    if cluster.ray_address is None:
        prepare_local_cluster()
    from actors import ray_app

    actors, verifier = config.actors, config.verifier
    workers, pools = actors.max_rollout_workers or actors.rollout_workers, verifier.max_pools or verifier.pools
    logical_cpus = config.trainer.ranks + workers + pools + 8  # room for `rloop scale`
    try:
        with ray_app.cluster(cluster.ray_address, cluster.dashboard, logical_cpus, cluster.object_store_mb):
            yield ray_app
    except ray_app.NoCluster as error:
        token = "" if shows_token() else "; where the cluster asks for a token, export RAY_AUTH_MODE=token"
        raise Refused(
            [
                f"cluster.ray_address: cannot join {error}{token}; start a cluster (rloop token && ray start --head), "
                "or set it to null to have one started here"
            ]
        ) from None


def nodes(ray_app: Any) -> list[Node]:
    """What every node of the cluster has, and what of it others use."""
    return [Node(*node) for node in ray_app.nodes()]
