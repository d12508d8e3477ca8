"""Starts the actors of a run, watches them, and takes them down again, in every order of events.

The driver holds no state of the run: kill it at any moment and `rloop resume` goes on from the manifest.
"""

import asyncio
import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.manifest import Manifest
from actors.records import BufferStatus, EvalRow, RunStatus
from actors.waiting import PeerLost, unless, while_progressing, within
from cluster import scaling
from cluster.casting import PATIENCE, Casting
from cluster.ensemble import START_KEY, Ensemble
from cluster.gauges import GAUGES, Exporter
from cluster.incidents import GivenUp, Incidents
from cluster.materials import Materials, Recipe, load_data, load_tokenizer, prepare, probe_sequences
from cluster.pools import Pools
from cluster.ray_cluster import joined
from cluster.room import nodes_with_room, require_shared
from cluster.staffing import Staffing, bounds_of
from cluster.stop_signals import stop_signals
from cluster.supervisor import Patience, Supervisor
from cluster.workforce import Workforce, close_all
from rollout.storage import LocalDisk
from trainer.schedules import make_scheduler

if TYPE_CHECKING:
    from actors.ray_app import Peer
    from cluster.config import RunConfig
    from rollout.records import EvalCounts

logger = logging.getLogger(__name__)

_POLL_S = 0.5
_CLOSE_S = 8.0  # everybody is gone so long after the end, or killed
_ANSWER_S = 5.0  # the controller answers questions between two awaits
_NO_CHECKPOINT = "the last committed checkpoint stands, no new one could be written"

Show = Callable[[RunStatus], object]
Evaluation = tuple[EvalRow, "list[EvalCounts]"]


class Hired:
    """The actors that have been hired, in order; takes them down in the reverse order."""

    def __init__(self) -> None:
        self._down: list[Callable[[float], Awaitable[None]]] = []

    def add(self, peers: "dict[str, Peer] | Workforce | Pools") -> None:
        """These have been hired."""
        self._down.append(partial(close_all, peers) if isinstance(peers, dict) else peers.down)

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
    shows = [show]
    scaling.forget(run_dir)  # before anybody sees that the run is under way
    async with _ticking(lambda status: [one(status) for one in shows]) as show:
        show(RunStatus(waiting="model and data"))
        preparing = asyncio.create_task(asyncio.to_thread(prepare, config, run_dir))
        if Manifest.load(LocalDisk(run_dir)) and (finished := _already_finished(config, run_dir, await preparing)):
            return finished
        with (
            stop_signals() as signals,
            joined(config) as ray_app,  # a new model is made meanwhile
            _exported(shows, ray_app, config.cluster.name),
        ):
            signals.listen()
            stop = signals.event
            hired = Hired()
            try:
                materials = await preparing
                assembled = await unless(stop, _assemble(config, ray_app, run_dir, materials, hired, show))
                if assembled is None:
                    show(RunStatus(state="stopping", waiting="everybody to close"))
                    return RunStatus(state="interrupted", message="asked to stop while starting")
                return await _watch(*assembled, stop, config.actors.stop_timeout_s, show)
            finally:
                await hired.down()


def _already_finished(config: "RunConfig", run_dir: Path, materials: Materials) -> RunStatus | None:
    """The final status of a run that has nothing left to do: then nothing is started."""
    manifest = Manifest.load(LocalDisk(run_dir))
    scheduler = make_scheduler(config.schedule, warmup=bool(materials.recipe.warmup_dataset))
    if manifest is None or manifest.phase or scheduler.next(manifest.done):
        return None
    ended = manifest.done[-1].ended if manifest.done else ""
    return RunStatus(
        "finished",
        iterations=config.schedule.iterations,
        version=manifest.version,
        evals=manifest.evals,
        message=f"its only RL phase ended early ({ended}); a new run may go on from its weights" if ended else "",
    )


async def evaluate(config: "RunConfig", checkpoint: Path, show: Show) -> Evaluation:
    """Held-out metrics of a model directory, with the workers and verifiers that a run uses.

    Its scratch directory, with the logs, stays behind when it fails; the message names it.
    """
    async with _ticking(show) as show:
        return await _evaluate(config, checkpoint, show)


async def _evaluate(config: "RunConfig", checkpoint: Path, show: Show) -> Evaluation:
    show(RunStatus(waiting="model and data"))
    tokenizer = await asyncio.to_thread(load_tokenizer, str(checkpoint))
    data = load_data(config, tokenizer)
    probe = probe_sequences(len(tokenizer), config.rollout.context_length)
    materials = Materials(Recipe(str(checkpoint), "", ""), data.train, data.held_out, data.mixture, probe)
    elsewhere = (
        config.cluster.runs_dir if config.cluster.ray_address else None
    )  # workers on other nodes write there too
    if elsewhere:
        elsewhere.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="rloop-eval-", dir=elsewhere))
    with joined(config) as ray_app:
        hired = Hired()
        try:
            casting = await _cast(config, scratch, ray_app, show, learns=False)
            buffer, supervisor = await _assemble_evaluation(config, casting, scratch, materials, hired, show)
            counts = await _watch_evaluation(buffer, supervisor, show)
        except BaseException as error:
            error.add_note(f"what each process wrote: {scratch / 'logs'}")
            raise
        finally:
            await hired.down()
    from rollout.evaluation import summarize

    shutil.rmtree(scratch)
    metrics = summarize(counts, config.eval.ks)
    return EvalRow(str(checkpoint), "evaluation", metrics, len(counts), config.eval.samples), counts


async def _assemble_evaluation(
    config: "RunConfig", casting: Casting, scratch: Path, materials: Materials, hired: Hired, show: Show
) -> "tuple[Peer, Supervisor]":
    """Bring everyone up for an evaluation, with nobody who learns."""
    pools = await _pools(config, casting, hired, show)
    show(RunStatus(waiting="engines"))
    buffer = casting.buffer(scratch / "journal", materials)
    hired.add({"buffer": buffer})
    patience = config.actors.start_timeout_s
    least = config.actors.rollout_workers
    workforce = Workforce(casting, materials.recipe.model_dir, buffer, pools.peers, patience, least=least)
    hired.add(workforce)
    await workforce.hire(least)
    run = partial(_counts, buffer, config)
    core = Ensemble({"buffer": buffer}, workforce.enlist_all, patience, run)
    await core.start()
    return buffer, _supervisor(config, casting, scratch, core, pools, workforce)


async def _counts(buffer: "Peer", config: "RunConfig") -> Any:
    """Evaluate, as long as groups keep finishing."""

    async def finished() -> int:
        status: BufferStatus = await buffer.status()
        return status.finished

    plan, patience = config.eval, PATIENCE * config.actors.stall_s
    await buffer.begin_eval(0, plan.samples, plan.temperature, plan.limit)
    return await while_progressing(lambda: buffer.eval_result(patience), finished)


async def _watch_evaluation(buffer: "Peer", supervisor: Supervisor, show: Show) -> Any:
    """Show the evaluation until it ends; returns its counts."""
    watching = asyncio.ensure_future(supervisor.watch())
    try:
        while not watching.done():
            await asyncio.wait((watching,), timeout=_POLL_S)
            if not watching.done() and (status := await _ask("buffer", buffer, "status")):
                picture = RunStatus(state="running", phase="eval", waiting="evaluation", buffer=status)
                supervisor.see(picture)
                show(replace(picture, message=supervisor.note))
        return watching.result()
    finally:
        watching.cancel()


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
def _exported(shows: list[Show], ray_app: Any, run: str) -> Iterator[None]:
    """Pictures also go to Prometheus while the context lasts."""
    described = {gauge.name: (gauge.help, ["run", *([gauge.label] if gauge.label else [])]) for gauge in GAUGES}
    shows.append(Exporter(ray_app.Gauges(described), run).show)
    try:
        yield
    finally:
        shows.pop()


async def _cast(config: "RunConfig", run_dir: Path, ray_app: Any, show: Show, learns: bool = True) -> Casting:
    """The parts, given out as soon as the cluster has room for everybody."""
    there = await nodes_with_room(config, ray_app, lambda text: show(RunStatus(waiting=text)), learns)
    casting = Casting(config, run_dir, ray_app, there, learns)
    if learns:  # the scratch directory of an evaluation is nobody's but this node's
        await require_shared(run_dir / "config.yaml", ray_app)
    await casting.seating.reserve()
    return casting


async def _pools(config: "RunConfig", casting: Casting, hired: Hired, show: Show) -> Pools:
    """The verifier pools, up: a verifier that cannot be loaded is told before anything else starts."""
    show(RunStatus(waiting="verifiers"))
    pools = Pools(casting, config.actors.start_timeout_s)
    hired.add(pools)
    await asyncio.gather(*(pools.open() for _ in range(config.verifier.pools)))
    return pools


async def _assemble(
    config: "RunConfig", ray_app: Any, run_dir: Path, materials: Materials, hired: Hired, show: Show
) -> "tuple[Peer, Supervisor, Staffing]":
    """Bring everyone up; returns the controller, whose run has begun, and who watches over its actors and their number.

    Engines and ranks start side by side: that is most of it.
    """
    casting = await _cast(config, run_dir, ray_app, show)
    pools = await _pools(config, casting, hired, show)
    show(RunStatus(waiting="engines and learner ranks"))
    patience, model_dir = config.actors.start_timeout_s, materials.recipe.model_dir
    buffer, broadcaster = casting.buffer(run_dir / "journal", materials), casting.broadcaster(materials)
    hired.add({"buffer": buffer})
    least = config.actors.rollout_workers
    workforce = Workforce(casting, model_dir, buffer, pools.peers, patience, broadcaster, least)
    hired.add(workforce)
    hiring = asyncio.ensure_future(workforce.hire(least))
    ranks = casting.ranks(model_dir)
    hired.add(ranks)
    hired.add({"broadcaster": broadcaster})
    controller = casting.controller(materials, buffer, ranks, broadcaster)
    hired.add({"controller": controller})

    async def bring_up() -> None:
        await asyncio.gather(hiring, connect(ranks, patience, config.actors.learner_timeout_s))
        await workforce.enlist_all()

    peers = {"buffer": buffer, "broadcaster": broadcaster, **ranks, "controller": controller}
    core = Ensemble(peers, bring_up, patience, partial(controller.call, "run"), lasting=("buffer",))
    await core.start()
    supervisor = _supervisor(config, casting, run_dir, core, pools, workforce)
    staffing = Staffing(
        workforce,
        pools,
        core,
        bounds_of(config),
        casting.seating.further,
        casting.count_nodes,
        partial(scaling.asked, run_dir),
        lambda: supervisor.workers_on(casting.draining_nodes()),
    )
    return controller, supervisor, staffing


async def connect(ranks: "dict[str, Peer]", patience_s: float, collectives_s: float) -> None:
    """Let the ranks find each other, at a port that is free now.

    Args:
        ranks: All of them, by name.
        patience_s: How long that may take.
        collectives_s: How long a rank waits for the others in a collective later on: as long as any learner call may
            take, for another may be writing a large checkpoint.
    """
    master = await next(iter(ranks.values())).with_deadline(patience_s).call("rendezvous")
    await asyncio.gather(
        *(
            within(
                patience_s,
                rank.with_deadline(patience_s).call("connect", *master, collectives_s),
                f"{name} joins the other ranks {START_KEY}",
            )
            for name, rank in ranks.items()
        )
    )


def _supervisor(
    config: "RunConfig",
    casting: Casting,
    run_dir: Path,
    core: Ensemble,
    pools: Pools,
    workforce: Workforce,
) -> Supervisor:
    actors = config.actors
    patience = Patience(
        actors.suspect_s, actors.silent_s, actors.stall_s, actors.learner_timeout_s, on_stall=actors.on_stall
    )
    incidents = Incidents(run_dir / "incidents.jsonl", actors.restarts)
    return Supervisor(core, pools.ensembles, workforce, incidents, patience, run_dir, casting.prod)


async def _watch(
    controller: "Peer",
    supervisor: Supervisor,
    staffing: Staffing,
    stop: asyncio.Event,
    stop_timeout_s: float,
    show: Show,
) -> RunStatus:
    """Show the run until it ends. A stop signal ends it with a checkpoint, if one is written in time."""
    watching, growing = asyncio.ensure_future(supervisor.watch()), asyncio.ensure_future(staffing.run())
    last, give_up_at = RunStatus(), float("inf")
    clock = asyncio.get_running_loop().time
    try:
        while not watching.done():
            await asyncio.wait((watching,), timeout=_POLL_S)
            if stop.is_set() and give_up_at == float("inf"):
                give_up_at = clock() + stop_timeout_s
                await _ask("controller", controller, "stop", "asked to stop")
            if stop.is_set() and supervisor.restarting:
                return RunStatus(state="interrupted", message=f"asked to stop; {_NO_CHECKPOINT}")
            if clock() > give_up_at:
                late = f"{_NO_CHECKPOINT} within actors.stop_timeout_s={stop_timeout_s:g}"
                return RunStatus(state="interrupted", message=f"asked to stop; {late}")
            if not watching.done():
                if not supervisor.restarting and (seen := await _ask("controller", controller, "status")):
                    supervisor.see(last := seen)
                stopping = "a checkpoint is being written; Ctrl-C again ends at once" if stop.is_set() else ""
                note = stopping or last.message or supervisor.note or staffing.note
                picture = replace(last, message=note, staff=staffing.now, staff_wanted=staffing.wanted)
                show(replace(picture, engines=supervisor.engines))
        return _outcome(watching, last)
    finally:
        watching.cancel()
        growing.cancel()


def _outcome(watching: "asyncio.Future[RunStatus]", last: RunStatus) -> RunStatus:
    """The final status."""
    try:
        return watching.result()
    except GivenUp as error:
        return replace(last, state="failed", message=str(error))
    except Exception as error:
        logger.exception("the run failed")
        return replace(last, state="failed", message=f"{type(error).__name__}: {error}")


async def _ask(name: str, peer: "Peer", method: str, *args: Any) -> Any:
    """Ask for something small; None without an answer: the supervisor finds out why."""
    try:
        return await within(_ANSWER_S, peer.call(method, *args), f"driver waits for {name}.{method}")
    except (TimeoutError, PeerLost) as error:
        logger.warning("%s", error)
        return None
