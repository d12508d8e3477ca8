"""Starts the actors of a run, watches them, and takes them down again, in every order of events.

The driver holds no state of the run: kill it at any moment and `rloop resume` goes on from the manifest.
"""

import asyncio
import contextlib
import logging
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.manifest import Manifest
from actors.ray_settings import prepare_local_cluster
from actors.records import BufferStatus, EvalRow, RunStatus
from actors.waiting import PeerLost, unless, while_progressing, within
from cluster.casting import Casting, make_schedule
from cluster.materials import Materials, Recipe, load_problems, load_tokenizer, prepare, probe_sequences
from cluster.workforce import Workforce, close_all
from rollout.storage import LocalDisk

if TYPE_CHECKING:
    from actors.ray_app import Peer
    from cluster.config import RunConfig

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_STOP_S = 20.0  # a stop request is answered with a checkpoint within this time
_CLOSE_S = 8.0  # and everybody is gone this much later, or killed
_ANSWER_S = 5.0  # the controller answers questions between two awaits

Show = Callable[[RunStatus], None]


class Crew:
    """The actors that are up, in the order they came up; takes them down in the reverse order."""

    def __init__(self, start_timeout_s: float) -> None:
        self._start_timeout_s = start_timeout_s
        self._down: list[Callable[[float], Awaitable[None]]] = []

    async def up(self, peers: "dict[str, Peer]", first_call: str, *args: Any) -> None:
        """Wait until actors answer their first call; the first that fails is raised with its name."""
        self._down.append(partial(close_all, peers))
        await asyncio.gather(
            *(
                within(self._start_timeout_s, peer.call(first_call, *args), f"{name} comes up")
                for name, peer in peers.items()
            )
        )

    async def workforce(self, workforce: Workforce, count: int) -> None:
        """Bring up the rollout workers."""
        self._down.append(workforce.down)
        await workforce.up(count)

    async def down(self) -> None:
        """Close everyone, newest first; whoever does not answer in time is killed."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + _CLOSE_S
        for down in reversed(self._down):
            await down(max(deadline - clock(), 0.5))


async def train(config: "RunConfig", run_dir: Path, show: Show) -> RunStatus:
    """Run a whole RLoop run, or go on with one that has a manifest.

    Args:
        config: The resolved run.
        run_dir: An existing run directory.
        show: Called with a picture of the run about twice a second.

    Returns:
        The final status: `finished`, `interrupted` (resumable) or `failed`, with a message.
    """
    async with _ticking(show) as show:
        show(RunStatus(waiting="model and data"))
        materials = await asyncio.to_thread(prepare, config, run_dir)
        if finished := _already_finished(config, run_dir, materials):
            return finished
        with _stop_signals() as stop, _ray(config) as (ray_app, gpus):
            crew = Crew(config.actors.start_timeout_s)
            try:
                casting = Casting(config, run_dir, ray_app, gpus)
                assembled = await unless(stop, _assemble(config, casting, run_dir, materials, crew, show))
                if assembled is None:
                    show(RunStatus(state="stopping", waiting="everybody to close"))
                    return RunStatus(state="interrupted", message="asked to stop while starting")
                return await _watch(*assembled, stop, show)
            finally:
                await crew.down()


def _already_finished(config: "RunConfig", run_dir: Path, materials: Materials) -> RunStatus | None:
    """The final status of a run that has nothing left to do: then nothing is started."""
    manifest = Manifest.load(LocalDisk(run_dir))
    if manifest is None or manifest.phase or make_schedule(config, materials.recipe).next(manifest.done):
        return None
    iterations = config.schedule.iterations
    return RunStatus("finished", iterations=iterations, version=manifest.version, evals=manifest.evals)


async def evaluate(config: "RunConfig", checkpoint: Path, show: Show) -> EvalRow:
    """Held-out pass@k of a model directory, with the workers and verifiers that a run uses.

    Its scratch directory, with the logs, stays behind when it fails; the message names it.
    """
    async with _ticking(show) as show:
        return await _evaluate(config, checkpoint, show)


async def _evaluate(config: "RunConfig", checkpoint: Path, show: Show) -> EvalRow:
    show(RunStatus(waiting="model and data"))
    tokenizer = await asyncio.to_thread(load_tokenizer, str(checkpoint))
    train_prompts, held_out = load_problems(config, tokenizer)
    probe = probe_sequences(len(tokenizer), config.rollout.context_length)
    materials = Materials(Recipe(str(checkpoint), "", ""), train_prompts, held_out, probe)
    scratch = Path(tempfile.mkdtemp(prefix="rloop-eval-"))
    with _ray(config) as (ray_app, gpus):
        crew = Crew(config.actors.start_timeout_s)
        try:
            casting = Casting(config, scratch, ray_app, gpus)
            buffer, verifiers = await _assemble_scoring(casting, scratch, materials, crew, show)
            show(RunStatus(waiting="engines"))
            workforce = _workforce(config, casting, str(checkpoint), buffer, verifiers)
            await crew.workforce(workforce, config.actors.rollout_workers)
            await workforce.start()
            show(RunStatus(state="running", phase="eval", waiting="evaluation"))
            counts = await _counts(buffer, workforce, config)
        except BaseException as error:
            error.add_note(f"what each process wrote: {scratch / 'logs'}")
            raise
        finally:
            await crew.down()
    from rollout.evaluation import summarize

    shutil.rmtree(scratch)
    return EvalRow(str(checkpoint), "evaluation", summarize(counts, config.eval.ks), len(counts), config.eval.samples)


async def _counts(buffer: "Peer", workforce: Workforce, config: "RunConfig") -> Any:
    """Evaluate, as long as groups keep finishing and there are workers."""

    async def finished() -> int:
        status: BufferStatus = await buffer.status()
        return status.finished

    plan, stall_s = config.eval, config.actors.stall_s
    await buffer.begin_eval(0, plan.samples, plan.temperature, plan.limit)
    result = asyncio.ensure_future(while_progressing(lambda: buffer.eval_result(stall_s), finished))
    illness = asyncio.ensure_future(workforce.watch())
    try:
        await asyncio.wait((result, illness), return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise PeerLost(illness.result())
        return result.result()
    finally:
        result.cancel()
        illness.cancel()


@contextlib.asynccontextmanager
async def _ticking(show: Show) -> AsyncIterator[Show]:
    """Pictures whose elapsed time counts from now, shown again and again: a clock that stands still looks hung."""
    began, last = time.monotonic(), RunStatus()

    def timed(status: RunStatus) -> None:
        nonlocal last
        last = status
        show(replace(status, elapsed_s=time.monotonic() - began))

    async def tick() -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            timed(last)

    ticker = asyncio.create_task(tick())
    try:
        yield timed
    finally:
        ticker.cancel()


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


def _workforce(config: "RunConfig", casting: Casting, model_dir: str, buffer: "Peer", verifiers: "Peer") -> Workforce:
    actors = config.actors
    return Workforce(casting, model_dir, buffer, verifiers, actors.worker_restarts, actors.start_timeout_s)


async def _assemble(
    config: "RunConfig", casting: Casting, run_dir: Path, materials: Materials, crew: Crew, show: Show
) -> "tuple[Peer, Workforce]":
    """Bring everyone up; returns controller and workers. Engines and ranks start side by side: that is most of it."""
    buffer, verifiers = await _assemble_scoring(casting, run_dir, materials, crew, show)
    show(RunStatus(waiting="engines and learner ranks"))
    workforce = _workforce(config, casting, materials.recipe.model_dir, buffer, verifiers)
    ranks = casting.ranks(materials.recipe.model_dir)
    patience = config.actors.start_timeout_s

    async def connect_ranks() -> None:
        master = await next(iter(ranks.values())).call("rendezvous")
        await crew.up(ranks, "connect", *master, patience)

    await asyncio.gather(crew.workforce(workforce, config.actors.rollout_workers), connect_ranks())
    broadcaster = casting.broadcaster(workforce.workers, materials)
    await crew.up({"broadcaster": broadcaster}, "probe_sequences")
    await workforce.start(broadcaster)
    controller = casting.controller(materials, buffer, ranks, broadcaster)
    await crew.up({"controller": controller}, "process_id")
    return controller, workforce


async def _watch(controller: "Peer", workforce: Workforce, stop: asyncio.Event, show: Show) -> RunStatus:
    """Show the run until it ends. A stop signal, or too many dead workers, end it with a checkpoint."""
    run = asyncio.ensure_future(controller.call("run"))
    illness = asyncio.ensure_future(workforce.watch())
    failure, give_up_at = "", float("inf")
    clock = asyncio.get_running_loop().time
    try:
        while not run.done():
            await asyncio.wait((run,), timeout=_POLL_S)
            if give_up_at == float("inf") and (stop.is_set() or illness.done()):
                failure = illness.result() if illness.done() else ""
                give_up_at = clock() + _STOP_S
                await _ask(controller, "stop", failure or "asked to stop")
            if clock() > give_up_at:
                return _ended(failure, f"no checkpoint within {_STOP_S:g} s; the last committed one stands")
            if not run.done() and (picture := await _ask(controller, "status")):
                stopping = "a checkpoint is being written; Ctrl-C again ends at once" if stop.is_set() else ""
                show(replace(picture, message=stopping or picture.message or workforce.note))
        return await _outcome(run, controller, failure)
    finally:
        run.cancel()
        illness.cancel()


async def _outcome(run: "asyncio.Future[RunStatus]", controller: "Peer", failure: str) -> RunStatus:
    """The final status; what ended a worker explains more than what the others saw of it."""
    try:
        status = run.result()
    except Exception as error:
        logger.exception("the run failed")
        picture = await _ask(controller, "status") or RunStatus()
        status = replace(picture, state="failed", message=f"{type(error).__name__}: {error}")
    return replace(status, state="failed", message=failure) if failure and status.state != "finished" else status


async def _ask(controller: "Peer", method: str, *args: Any) -> Any:
    """Ask the controller something; None when it does not answer, which its `run` then explains."""
    try:
        return await within(_ANSWER_S, controller.call(method, *args), f"driver waits for controller.{method}")
    except (TimeoutError, PeerLost) as error:
        logger.warning("%s", error)
        return None


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
