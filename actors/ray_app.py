"""The only file that knows Ray: hosts the plain classes as actors and gives peers to call them by.

Rules kept here: every call has a deadline and names both sides; Ray never retries or restarts anything (retries
belong to the ledger); a lost process is one exception, `PeerLost`, with a name in it; what an actor prints goes to
its own log file. Import `actors.ray_settings` first: Ray reads its authentication mode when it is imported.
"""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any, TypeVar

import ray
import ray.exceptions
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors import watchdog
from actors.waiting import PeerLost, within
from rollout.records import BatchInfo

C = TypeVar("C")

NAMESPACE = "rloop"


class Peer:
    """A hosted actor as others see it: `await peer.method(…)` with a deadline.

    Cast it to the protocol of the class it hosts; it can be sent to other actors.
    """

    def __init__(self, handle: Any, name: str, deadline_s: float) -> None:
        self._handle = handle
        self._name = name
        self._deadline_s = deadline_s

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self.call(method, *args, **kwargs)

        return call

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method by name.

        Raises:
            DeadlineExceeded: No answer within the peer's deadline.
            PeerLost: Its process died.
        """
        return await self._answer(getattr(self._handle, method).remote(*args, **kwargs), method)

    async def _answer(self, reference: Any, method: str) -> Any:
        try:
            return await within(self._deadline_s, _value(reference), f"waiting for {self._name}.{method}")
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            cause.add_note(str(error))  # the remote traceback, for the log
            raise cause from None
        except ray.exceptions.RayActorError as error:
            reason = str(error).strip().splitlines()
            raise PeerLost(
                f"{self._name} died during {method}: {reason[-1] if reason else 'no reason known'}"
            ) from None

    def kill(self) -> None:
        """End the process now."""
        ray.kill(self._handle)


class BufferPeer(Peer):
    """The buffer, whose batches travel by reference: the caller passes them on without holding tokens."""

    async def next_batch(self, timeout_s: float) -> tuple[BatchInfo, Any]:
        """The batch's numbers, and a reference to its tokens."""
        info, batch = self._handle.next_batch.options(num_returns=2).remote(timeout_s)
        return await self._answer(info, "next_batch"), batch


async def _value(reference: Any) -> Any:
    return await reference


class _Hosted:
    """Mixed into each class on its way to Ray."""

    def rendezvous(self) -> tuple[str, int]:
        """This node's address and a port that is free now."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def close(self) -> None:
        """Nothing to let go of, for classes that have no `close` of their own."""

    def process_id(self) -> int:
        """For doctor, tests and clean-up."""
        return os.getpid()


def host(
    cls: type,
    name: str,
    *args: Any,
    log_file: str,
    deadline_s: float,
    peer: type[Peer] = Peer,
    env: dict[str, str] | None = None,
    num_gpus: float = 0,
    max_concurrency: int = 1000,
    gang: tuple[PlacementGroup, int] | None = None,
    **kwargs: Any,
) -> Any:
    """Start `cls(*args, **kwargs)` as a Ray actor called `name`; returns the peer to call it by, at once."""

    class Hosted(cls, _Hosted):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            _write_output_to(log_file)
            super().__init__(*args, **kwargs)

    Hosted.__name__ = Hosted.__qualname__ = cls.__name__  # what the Ray dashboard shows
    options: dict[str, Any] = {
        "name": f"rloop/{name}",
        "num_cpus": 0,
        "num_gpus": num_gpus,
        "max_restarts": 0,
        "max_task_retries": 0,
        "runtime_env": {"env_vars": env or {}},
    }
    if any(_is_async(getattr(cls, attribute)) for attribute in dir(cls)):
        options["max_concurrency"] = max_concurrency
    if gang:
        group, bundle = gang
        options["num_cpus"] = 1
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
    handle = ray.remote(Hosted).options(**options).remote(*args, **kwargs)
    return peer(handle, name, deadline_s)


def gang(size: int, gpus_each: float, timeout_s: float) -> PlacementGroup:
    """Room for `size` ranks that start together or not at all.

    Raises:
        RuntimeError: When the cluster has no such room within the deadline.
    """
    bundle = {"CPU": 1.0} | ({"GPU": gpus_each} if gpus_each else {})
    group = placement_group([bundle] * size, strategy="PACK")
    if not group.wait(timeout_s):
        raise RuntimeError(
            f"the cluster has no room for {size} learner ranks of {bundle} within {timeout_s:g} s; it has "
            f"{ray.cluster_resources()}; lower trainer.ranks or add nodes"
        )
    return group


@contextlib.contextmanager
def cluster(address: str | None, dashboard: bool, logical_cpus: int, object_store_mb: int) -> Iterator[int]:
    """A Ray cluster to run in: the one at `address`, or a local one that ends with this process.

    Yields:
        GPUs in the cluster.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local = {
        "num_cpus": logical_cpus,  # logical: Ray binds nothing, it only counts
        "object_store_memory": object_store_mb << 20,
        "include_dashboard": dashboard,
    }
    ray.init(
        address=address,
        namespace=NAMESPACE,
        log_to_driver=False,
        logging_level=logging.ERROR,
        **({} if address else local),
    )
    guard = None if address else watchdog.start()
    try:
        yield int(ray.cluster_resources().get("GPU", 0))
    finally:
        ray.shutdown()
        if guard:
            guard.kill()
            guard.wait(10)


def _is_async(attribute: Any) -> bool:
    import inspect

    return inspect.iscoroutinefunction(attribute)


def _write_output_to(path: str) -> None:
    """Send stdout, stderr and logging of this process (and of its children) to a file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
