"""Starts the actors of a run, watches them, and takes them down again, in every order of events.

The driver holds no state of the run: kill it at any moment and `rloop resume` goes on from the manifest.
"""

import asyncio
import contextlib
import logging
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.ray_settings import prepare_local_cluster
from actors.records import EvalRow, RunStatus
from actors.waiting import PeerLost, within
from cluster.casting import Casting
from cluster.materials import Materials, Recipe, load_problems, load_tokenizer, prepare, probe_sequences

if TYPE_CHECKING:
    from actors.ray_app import Peer
    from cluster.config import RunConfig

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_STOP_S = 30.0  # a stop request is answered with a checkpoint within this time
_CLOSE_S = 10.0

Show = Callable[[RunStatus], None]


class Crew:
    """The actors that are up, in the order they came up; takes them down in the reverse order."""

    def __init__(self, start_timeout_s: float) -> None:
        self._start_timeout_s = start_timeout_s
        self._peers: dict[str, Peer] = {}

    async def up(self, peers: "dict[str, Peer]", first_call: str, *args: Any) -> dict[str, Any]:
        """Wait until actors answer their first call; the first that fails is raised with its name."""
        self._peers |= peers
        answers = await asyncio.gather(
            *(
                within(self._start_timeout_s, peer.call(first_call, *args), f"{name} comes up")
                for name, peer in peers.items()
            )
        )
        return dict(zip(peers, answers, strict=True))

    async def down(self) -> None:
        """Close everyone, newest first; whoever does not answer is killed."""
        for name, peer in reversed(self._peers.items()):
            try:
                await within(_CLOSE_S, peer.call("close"), f"{name} closes")
            except (TimeoutError, PeerLost, RuntimeError) as error:
                logger.info("%s did not close by itself: %s", name, error)
            peer.kill()


async def train(config: "RunConfig", run_dir: Path, show: Show) -> RunStatus:
    """Run a whole RLoop run, or go on with one that has a manifest.

    Args:
        config: The resolved run.
        run_dir: An existing run directory.
        show: Called with a picture of the run about twice a second.

    Returns:
        The final status: `finished`, `interrupted` (resumable) or `failed`, with a message.
    """
    show = _timed(show)
    show(RunStatus(waiting="model and data"))
    materials = await asyncio.to_thread(prepare, config, run_dir)
    with _stop_signals() as stop, _ray(config) as (ray_app, gpus):
        crew = Crew(config.actors.start_timeout_s)
        try:
            casting = Casting(config, run_dir, ray_app, gpus)
            controller, workers = await _assemble(config, casting, run_dir, materials, crew, show)
            return await _watch(controller, workers, stop, show)
        finally:
            await crew.down()


async def evaluate(config: "RunConfig", checkpoint: Path, show: Show) -> EvalRow:
    """Held-out pass@k of a model directory, with the workers and verifiers that a run uses."""
    from rollout.evaluation import summarize

    show = _timed(show)
    show(RunStatus(waiting="model and data"))
    tokenizer = await asyncio.to_thread(load_tokenizer, str(checkpoint))
    train_prompts, held_out = load_problems(config, tokenizer)
    probe = probe_sequences(len(tokenizer), config.rollout.context_length)
    materials = Materials(Recipe(str(checkpoint), "", ""), train_prompts, held_out, probe)
    with tempfile.TemporaryDirectory(prefix="rloop-eval-") as scratch, _ray(config) as (ray_app, gpus):
        crew = Crew(config.actors.start_timeout_s)
        casting = Casting(config, Path(scratch), ray_app, gpus)
        try:
            buffer, verifiers = await _assemble_scoring(casting, Path(scratch), materials, crew, show)
            show(RunStatus(waiting="engines"))
            await crew.up(casting.workers(str(checkpoint), buffer, verifiers), "start")
            plan = config.eval
            await buffer.begin_eval(0, plan.samples, plan.temperature, plan.limit)
            show(RunStatus(state="running", phase="eval", waiting="evaluation"))
            counts = await buffer.eval_result(config.actors.stall_s)
            metrics = summarize(counts, plan.ks)
            return EvalRow(str(checkpoint), "evaluation", metrics, len(counts), plan.samples)
        finally:
            await crew.down()


def _timed(show: Show) -> Show:
    """Pictures whose elapsed time counts from now: coming up is part of the wait."""
    began = time.monotonic()
    return lambda status: show(replace(status, elapsed_s=time.monotonic() - began))


@contextlib.contextmanager
def _ray(config: "RunConfig") -> Iterator[tuple[Any, int]]:
    """The wrapping module and the cluster's GPUs. Imported late: Ray reads its authentication mode on import."""
    cluster = config.cluster
    if cluster.ray_address is None:
        prepare_local_cluster()
    from actors import ray_app

    logical_cpus = config.trainer.ranks + config.actors.rollout_workers + 8
    with ray_app.cluster(cluster.ray_address, cluster.dashboard, logical_cpus, cluster.object_store_mb) as gpus:
        yield ray_app, gpus


async def _assemble_scoring(casting: Casting, run_dir: Path, materials: Materials, crew: Crew, show: Show) -> Any:
    """Verifiers and buffer. Returns both."""
    show(RunStatus(waiting="verifiers and buffer"))
    verifiers = casting.verifiers()
    buffer = casting.buffer(run_dir / "journal", materials)
    await crew.up({"verifiers": verifiers}, "start")
    await crew.up({"buffer": buffer}, "status")
    return buffer, verifiers


async def _assemble(
    config: "RunConfig", casting: Casting, run_dir: Path, materials: Materials, crew: Crew, show: Show
) -> "tuple[Peer, dict[str, Peer]]":
    """Bring everyone up; returns controller and workers. Engines and ranks start side by side: that is most of it."""
    buffer, verifiers = await _assemble_scoring(casting, run_dir, materials, crew, show)
    show(RunStatus(waiting="engines and learner ranks"))
    workers = casting.workers(materials.recipe.model_dir, buffer, verifiers)
    ranks = casting.ranks(materials.recipe.model_dir)
    master = await next(iter(ranks.values())).call("rendezvous")
    patience = config.actors.start_timeout_s
    await asyncio.gather(crew.up(workers, "start"), crew.up(ranks, "connect", *master, patience))
    broadcaster = casting.broadcaster(workers, materials)
    await crew.up({"broadcaster": broadcaster}, "probe_sequences")
    controller = casting.controller(materials, buffer, ranks, broadcaster)
    await crew.up({"controller": controller}, "process_id")
    return controller, workers


async def _watch(controller: "Peer", workers: "dict[str, Peer]", stop: asyncio.Event, show: Show) -> RunStatus:
    """Show the run until it ends. A stop signal or a dead worker asks the controller for a checkpoint first."""
    run = asyncio.ensure_future(controller.call("run"))
    failure, asked_at = "", 0.0
    clock = asyncio.get_running_loop().time
    while not run.done():
        await asyncio.wait((run,), timeout=_POLL_S)
        if not asked_at:
            failure = await _ill(workers)
            if failure or stop.is_set():
                asked_at = clock()
                await controller.stop(failure or "asked to stop")
        elif clock() - asked_at > _STOP_S:
            run.cancel()
            return _ended(failure, f"no checkpoint within {_STOP_S:g} s; the last committed one stands")
        if not run.done():
            show(await controller.status())
    try:
        status: RunStatus = run.result()
    except Exception as error:
        logger.exception("the run failed")
        status = replace(await _last_picture(controller), state="failed", message=f"{type(error).__name__}: {error}")
    return replace(status, state="failed", message=failure) if failure else status


async def _ill(workers: "dict[str, Peer]") -> str:
    """What ended a worker, or '' while all are well."""
    for name, worker in workers.items():
        try:
            await worker.health()
        except Exception as error:  # whatever it is, it is the worker's end and becomes the run's message
            return f"{name}: {type(error).__name__}: {error}"
    return ""


async def _last_picture(controller: "Peer") -> RunStatus:
    try:
        status: RunStatus = await controller.status()
        return status
    except (TimeoutError, PeerLost):
        return RunStatus()


def _ended(failure: str, message: str) -> RunStatus:
    if failure:
        return RunStatus(state="failed", message=f"{failure}; {message}")
    return RunStatus(state="interrupted", message=message)


@contextlib.contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set. The second signal acts as usual."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM)

    def ask() -> None:
        event.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, ask)
    try:
        yield event
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
