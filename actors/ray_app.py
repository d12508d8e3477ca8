"""The file that knows Ray: hosts the plain classes as actors and gives peers to call them by.

Rules kept here: every call has a deadline and names both sides; Ray may bring a process back, empty, but never calls
anything again (retries belong to the ledger); a lost process is one exception, `PeerLost`, with a name in it; what an
actor prints goes to its own log file; every actor tells its pulse, busy or not. Import `actors.ray_settings` first: Ray
reads its authentication mode when it is imported.
"""

import contextlib
import faulthandler
import inspect
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import psutil
import ray
import ray.exceptions
from ray import cloudpickle
from ray.util.metrics import Gauge
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from actors import watchdog
from actors.pulse import Pulse, Vitals, with_vitals
from actors.ray_nodes import Reservation, answer_of, draining_nodes, is_one_host, nodes, nodes_that_miss
from actors.ray_settings import is_open, shows_token
from actors.waiting import DeadlineExceeded, PeerAway, PeerLost, name_this_process, this_process, within
from rollout.records import BatchInfo

__all__ = ["Reservation", "draining_nodes", "is_one_host", "nodes", "nodes_that_miss"]  # of one seam with what is here

C = TypeVar("C")

NAMESPACE = "rloop"
_INLINE_BYTES = 50_000
_PULSE = "pulse"  # the concurrency group that answers while the actor's own thread is busy
_FOREVER = -1  # Ray's word for as many restarts as it takes
_PROD_TIMEOUT_S = 10.0


class NameTaken(RuntimeError):
    """There is an actor of this name in the cluster already."""


class NoCluster(RuntimeError):
    """There is no cluster at the address, or it does not let us in."""


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

    def with_deadline(self, seconds: float) -> "Peer":
        """The same actor, whose calls may take so long."""
        return type(self)(self._handle, self._name, seconds)

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method by name.

        Raises:
            DeadlineExceeded: No answer within the peer's deadline.
            PeerLost: Its process died; `PeerAway` when another one takes its place.
        """
        return await self._answer(getattr(self._handle, method).remote(*args, **kwargs), method)

    async def _answer(self, reference: Any, method: str) -> Any:
        try:
            return await within(
                self._deadline_s, answer_of(reference), f"{this_process()} waits for {self._name}.{method}"
            )
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            cause.add_note(str(error))  # the remote traceback, for the log
            raise cause from None
        except ray.exceptions.RayActorError as error:
            reason = str(error).strip().splitlines()
            lost = PeerAway if isinstance(error, ray.exceptions.ActorUnavailableError) else PeerLost
            raise lost(f"{self._name} died during {method}: {reason[-1] if reason else 'no reason known'}") from None

    def kill(self) -> None:
        """End the process now and for good, also one that is stopped (that takes Ray some seconds)."""
        ray.kill(self._handle)

    def restart(self) -> None:
        """End the process; Ray starts another that constructs the object anew, and this peer then means that one."""
        ray.kill(self._handle, no_restart=False)


class BufferPeer(Peer):
    """The buffer, whose batches travel by reference: the caller passes them on without holding tokens."""

    async def next_batch(self, timeout_s: float) -> tuple[BatchInfo, Any]:
        """The batch's numbers, and a reference to its tokens."""
        info, batch = self._handle.next_batch.options(num_returns=2).remote(timeout_s)
        return await self._answer(info, "next_batch"), batch


class _Host:
    """What Ray has of each actor: it makes the object in its own process, and calls it."""

    vitals: Vitals
    hosted: Any = None

    @ray.method(concurrency_group=_PULSE)  # type: ignore[untyped-decorator]
    def pulse(self) -> Pulse:
        """Who this is, what it does and what it waits for; answered in a thread of its own, also by a busy actor."""
        return self.vitals.pulse(ray.get_runtime_context().get_node_id(), getattr(self.hosted, "progress_stamp", 0))

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
    run: str = "",
    peer: type[Peer] = Peer,
    env: dict[str, str] | None = None,
    num_cpus: float = 0,
    num_gpus: float = 0,
    max_concurrency: int = 1000,
    seat: tuple[PlacementGroup, int] | None = None,
    spread: bool = False,
    stays_here: bool = False,
    comes_back: bool = True,
    **kwargs: Any,
) -> Any:
    """Start `cls(*args, **kwargs)` as a Ray actor; returns the peer to call it by, at once.

    Others know it as `name`; in the cluster, where several runs may be at work, it is called `rloop/run/name`. Raises
    `NameTaken` when one of that name is there.

    `seat` is a part of a reservation. With `spread` actors of a kind go to different nodes, as far as there are some.
    One that `stays_here` runs on this node: the head, which outlives the others, where the caller is a Ray job. With
    `comes_back` a process that dies is followed by another, newly constructed, under the same peer; calls that were
    under way are lost either way.
    """

    class Host(_Host):
        def __init__(self, packed: bytes | str) -> None:
            name_this_process(name)
            _write_output_to(log_file)
            _write_stacks_to(stacks_file(log_file))
            self.vitals = Vitals()
            cls, args, kwargs = _unpack(packed)
            self.hosted = cls(*args, **kwargs)

        def __repr__(self) -> str:
            return name  # as Ray's dashboard and logs show it

    for method, call in with_vitals(cls).items():
        setattr(Host, method, call)
    Host.__name__ = Host.__qualname__ = cls.__name__  # what the Ray dashboard shows
    options: dict[str, Any] = {
        "name": "/".join(filter(None, ("rloop", run, name))),
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "max_restarts": _FOREVER if comes_back else 0,
        "max_task_retries": 0,
        "runtime_env": {"env_vars": env or {}},
    }
    if any(inspect.iscoroutinefunction(getattr(cls, attribute)) for attribute in dir(cls)):
        options["max_concurrency"] = max_concurrency
    if spread:
        options["scheduling_strategy"] = "SPREAD"
    if stays_here:
        here = ray.get_runtime_context().get_node_id()  # a soft wish is not kept for actors that take nothing
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
    if seat:
        group, bundle = seat
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
    actor = ray.remote(concurrency_groups={_PULSE: 1})(Host).options(**options)
    try:
        handle = actor.remote(_pack((cls, args, kwargs), log_file))
    except ValueError as error:  # Ray has no kind of its own for it
        raise NameTaken(f"{options['name']}: {error}") from None
    return peer(handle, name, deadline_s)


def _pack(made_of: tuple[type, tuple[Any, ...], dict[str, Any]], log_file: str) -> bytes | str:
    """A class and what its constructor takes, as bytes, or the name of a file with them beside the log.

    Ray keeps arguments that are large, or hold actors, in its object store, from where they may be gone when a process
    is to be started again.
    """
    packed = cloudpickle.dumps(made_of)
    if len(packed) <= _INLINE_BYTES:
        return packed
    path = os.path.splitext(log_file)[0] + ".arguments"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(packed)
    return path


def _unpack(packed: bytes | str) -> tuple[type, tuple[Any, ...], dict[str, Any]]:
    if isinstance(packed, str):
        with open(packed, "rb") as file:
            packed = file.read()
    return cloudpickle.loads(packed)  # type: ignore[no-any-return]


def stacks_file(log_file: str) -> str:
    """Where a process whose log is `log_file` writes its stacks when it is prodded."""
    return os.path.splitext(log_file)[0] + ".stacks"


async def prod(process: Pulse) -> str:
    """Make a process write the stacks of all its threads, from outside, on whatever node it runs.

    Returns:
        Its state as the kernel has it: `T` is a stopped one, which writes nothing; in words when it has ended, or
        when its node does not answer.
    """
    where = NodeAffinitySchedulingStrategy(process.node_id, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(_prod).options(scheduling_strategy=where)
    reference = task.remote(process.process_id, process.born)
    what = f"{this_process()} waits for the state of {process.name} (process {process.process_id})"
    try:
        return await within(_PROD_TIMEOUT_S, answer_of(reference), what)
    except (DeadlineExceeded, ray.exceptions.RayError) as error:
        return f"its node does not answer ({type(error).__name__})"


def _prod(process_id: int, born: float) -> str:
    try:
        process = psutil.Process(process_id)
        if process.create_time() != born:
            return "its process is gone"  # the number belongs to another process by now
        with open(f"/proc/{process_id}/stat") as stat:
            state = stat.read().rsplit(")", 1)[1].split()[0]
        process.send_signal(signal.SIGUSR1)
    except (psutil.NoSuchProcess, FileNotFoundError):
        return "its process is gone"
    return state


class Gauges:
    """Numbers on the metrics port of this node, where Prometheus finds them; Ray puts `ray_` before their names."""

    def __init__(self, described: Mapping[str, tuple[str, Sequence[str]]]) -> None:
        """`described`: by name, what a gauge means, and its labels. Needs a cluster."""
        self._gauges = {name: Gauge(name, text, tuple(labels)) for name, (text, labels) in described.items()}

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Set one; it is forgotten unless it is set again within about twenty seconds."""
        self._gauges[name].set(value, dict(labels))


@contextlib.contextmanager
def cluster(address: str | None, dashboard: bool, logical_cpus: int, object_store_mb: int) -> Iterator[None]:
    """A Ray cluster to run in: the one at `address`, or a local one that ends with this process.

    Raises:
        NoCluster: When the one at `address` cannot be joined, or what is started in it would be cut off.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local = {
        "num_cpus": logical_cpus,  # logical: Ray binds nothing, it only counts
        "object_store_memory": object_store_mb << 20,
        "include_dashboard": dashboard,
    }
    try:
        joined = ray.init(
            address=address or "local",  # without an address Ray joins whatever cluster it finds on this machine
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else local),
        )
    except (ConnectionError, ray.exceptions.AuthenticationError) as error:
        raise NoCluster(f"{address}: {str(error).strip().splitlines()[0]}") from error
    url = joined.dashboard_url
    if address and url and shows_token() and is_open(f"http://{url}"):
        ray.shutdown()
        raise NoCluster(f"{address}: it asks for no token, and we show one (RAY_AUTH_MODE=disabled shows none)")
    guard = None if address else watchdog.start()
    try:
        yield
    finally:
        ray.shutdown()
        if guard:
            guard.kill()
            guard.wait(10)


def _write_output_to(path: str) -> None:
    """Send stdout, stderr and logging of this process (and of its children) to a file."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)


def _write_stacks_to(path: str) -> None:
    """Let SIGUSR1 append the stacks of all threads to a file, also when none of them answers any more."""
    faulthandler.register(signal.SIGUSR1, file=open(path, "a"), all_threads=True)  # noqa: SIM115  kept open on purpose
