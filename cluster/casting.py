"""Who plays what: builds every actor of a run from the parts of the configuration that it needs, and its resources."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.pulse import Pulse
from cluster.materials import Materials
from cluster.placement import ENGINE, RANK, Node
from cluster.room import crews_in, uses_gpus
from cluster.seating import Seat, Seating
from cluster.settings import Refused
from rollout.transports import Transport, choose
from trainer.schedules import make_scheduler

if TYPE_CHECKING:
    from actors.ray_app import Peer
    from cluster.config import RunConfig


PATIENCE = 3
"""The controller's own patience, in units of `actors.stall_s`: the supervisor, who can do something, acts first."""


class Casting:
    """Builds the actors of one run from its configuration: who gets which part of it, and which resources."""

    def __init__(
        self, config: "RunConfig", run_dir: Path, ray_app: Any, nodes: Sequence[Node], learns: bool = True
    ) -> None:
        """`nodes`: those of the cluster. `learns`: whether learner ranks will be asked for.

        Raises:
            Refused: When not everybody finds room on these nodes, or weights cannot take the way that is asked for.
        """
        self._config = config
        self._logs = run_dir / "logs"
        self._run_dir = run_dir
        self._ray_app = ray_app
        self._title = config.cluster.name if learns else f"{config.cluster.name}-eval"
        self.seating = Seating(crews_in(config, nodes, learns), ray_app, config.actors.start_timeout_s)
        """Where learner ranks and rollout workers sit; reserve the places first."""
        self.on_gpu = uses_gpus(config, nodes)
        asked = config.actors.weight_transport if learns else "auto"
        grows = config.cluster.ray_address and (config.actors.max_rollout_workers or 0) > config.actors.rollout_workers
        try:
            self._transport = choose(
                asked,
                one_host=ray_app.is_one_host() and not (asked == "auto" and grows),  # who joins later may be elsewhere
                on_gpu=self.on_gpu,
                shared_gpu=self.on_gpu and self.seating.colocated,
            )
        except ValueError as error:
            raise Refused([str(error)]) from None

    def verifier_pool(self, number: int) -> "tuple[str, Peer]":
        """A verifier pool and its name."""
        from actors.verifier_pool import VerifierPool

        verifier = self._config.verifier
        name = "verifiers" if verifier.pools == 1 and number == 0 else f"verifiers-{number}"
        specs = self._config.verifier_specs()
        return name, self._host(VerifierPool, name, specs, verifier.processes, num_cpus=1, spread=True)

    def buffer(self, journal: Path, materials: Materials) -> "Peer":
        """The rollout buffer."""
        from actors.buffer import RolloutBuffer
        from rollout.storage import LocalDisk

        actors = self._config.actors
        return self._host(
            RolloutBuffer,
            "buffer",
            LocalDisk(journal),
            list(materials.train),
            list(materials.held_out),
            self._config.rollout,
            self._config.cluster.seed,
            actors.lease_timeout_s,
            mixture=materials.mixture,
            peer=self._ray_app.BufferPeer,
            stays_here=True,
            deadline_s=PATIENCE * actors.stall_s + actors.call_timeout_s,
        )

    def worker(self, name: str, model_dir: str, buffer: "Peer", verifiers: "Peer", seat: Seat | None = None) -> "Peer":
        """A rollout worker with an engine of its own; `seat` is the room that it was granted."""
        from actors.rollout_worker import RolloutWorker
        from rollout.engine_env import ENGINE_ENV, GPU_ENGINE_ENV, SHARED_GPU_ENGINE_ENV

        gpu_env = SHARED_GPU_ENGINE_ENV if self._transport == "ipc" else GPU_ENGINE_ENV
        rollout, actors = self._config.rollout, self._config.actors
        engine, (cpus, gpus) = rollout.engine, self.seating.takes(ENGINE)
        if rollout.deterministic:  # what shares an answer's batch, or is in the cache, rounds its log-probs differently
            engine = engine.model_copy(update={"max_num_seqs": 1, "prefix_caching": False})
        return self._host(
            RolloutWorker,
            name,
            name,
            partial(
                make_engine,
                model_dir,
                engine,
                rollout.context_length,
                self._config.cluster.seed,
                self._transport,
                actors.transfer_timeout_s,
                neighbour=seat.bundle if seat and self._transport == "ipc" else None,
            ),
            partial(make_decoder, model_dir),
            buffer,
            verifiers,
            rollout.max_concurrent,
            rollout.report_every_s,
            actors.call_timeout_s,
            actors.start_timeout_s,
            env=gpu_env if self.on_gpu else ENGINE_ENV,
            num_cpus=cpus,
            num_gpus=gpus,
            spread=seat is None and not self.on_gpu,
            seat=(seat.group, seat.bundle) if seat else None,
            # Whoever calls has a deadline for each call; this one must not come first.
            deadline_s=max(actors.start_timeout_s, actors.transfer_timeout_s, actors.call_timeout_s),
            comes_back=False,  # another worker takes its place, under another name
        )

    def ranks(self, model_dir: str) -> "dict[str, Peer]":
        """Learner ranks, in their places."""
        from rollout.engine_env import GPU_ENGINE_ENV
        from trainer.learner import LearnerRank
        from trainer.learner_env import LEARNER_ENV

        config, (cpus, gpus) = self._config, self.seating.takes(RANK)
        size = config.trainer.ranks
        with_vllm = self._transport == "nccl"  # its communicator is what the engines' workers speak to
        return {
            f"learner-{rank}": self._host(
                LearnerRank,
                f"learner-{rank}",
                rank,
                size,
                model_dir,
                config.trainer,
                config.model.attention,
                config.rollout.temperature,
                config.rollout.max_new_tokens,
                config.cluster.seed,
                config.rollout.engine.dtype,
                self._transport,
                open_group if with_vllm else None,
                env=(GPU_ENGINE_ENV if with_vllm else {}) if self.on_gpu else LEARNER_ENV,
                num_cpus=cpus,
                num_gpus=gpus,
                seat=(self.seating.ranks, rank),
                deadline_s=config.actors.learner_timeout_s,
            )
            for rank in range(size)
        }

    def broadcaster(self, materials: Materials) -> "Peer":
        """The weight broadcaster; workers join it when they are up."""
        from actors.broadcaster import WeightBroadcaster, publish_timeout_s

        actors = self._config.actors
        return self._host(
            WeightBroadcaster,
            "broadcaster",
            materials.probe,
            actors.probe_tolerance,
            actors.call_timeout_s,
            actors.transfer_timeout_s,
            stays_here=True,
            # Twice: a worker that joins while a version is being published waits for that first.
            deadline_s=2 * publish_timeout_s(actors.call_timeout_s, actors.transfer_timeout_s),
        )

    def controller(self, materials: Materials, buffer: "Peer", ranks: "dict[str, Peer]", broadcaster: "Peer") -> "Peer":
        """The controller, which drives the others."""
        from actors.controller import Controller
        from actors.learner_group import LearnerGroup
        from actors.plan import Plan

        config, recipe = self._config, materials.recipe
        plan = Plan(
            schedule=config.schedule,
            rl=config.trainer.rl.optim,
            rft=config.trainer.rft,
            warmup=config.trainer.warmup,
            eval=config.eval,
            warmup_dataset=recipe.warmup_dataset,
            base_cache=recipe.base_cache,
            seed=config.cluster.seed,
            stall_s=PATIENCE * config.actors.stall_s,
            checkpoint_every_s=config.actors.checkpoint_every_s,
            keep_checkpoints=config.trainer.keep_checkpoints,
            save_timeout_s=config.actors.learner_timeout_s,
            max_staleness=config.rollout.max_staleness,
            groups_per_step=config.rollout.groups_per_step,
            guard=config.trainer.guard,
            config_digest=config.digest(),
            overlap_sync=config.actors.overlap_sync,
        )
        return self._host(
            Controller,
            "controller",
            plan,
            self._run_dir,
            make_scheduler(config.schedule, warmup=bool(recipe.warmup_dataset)),
            buffer,
            LearnerGroup(list(ranks.values())),
            broadcaster,
            stays_here=True,
            deadline_s=float("inf"),  # `run` takes as long as the run; its own waits have deadlines
        )

    def count_nodes(self) -> int:
        """Nodes of the cluster that are up and compute: a verifier pool finds room there."""
        return sum(cpus > 0 for _, cpus, *_ in self._ray_app.nodes())

    def draining_nodes(self) -> set[str]:
        """Ids of those that are about to go, and that workers had better leave.

        None in the colocated layout: a worker's only place is there, and goes elsewhere with its rank.
        """
        return set() if self.seating.colocated else self._ray_app.draining_nodes()

    async def prod(self, process: Pulse) -> str:
        """Make a process write its stacks into `logs/`; returns its state (see `ray_app.prod`)."""
        return await self._ray_app.prod(process)  # type: ignore[no-any-return]

    def _host(self, cls: type, name: str, *args: Any, deadline_s: float | None = None, **options: Any) -> "Peer":
        try:
            return self._ray_app.host(  # type: ignore[no-any-return]
                cls,
                name,
                *args,
                log_file=str((self._logs / f"{name}.log").resolve()),
                deadline_s=deadline_s or self._config.actors.call_timeout_s,
                run=self._title,
                **options,
            )
        except self._ray_app.NameTaken:
            raise Refused(
                [f"a run named {self._title!r} is at work in this cluster; stop that one, or choose another --name"]
            ) from None


def make_engine(
    model_dir: str,
    engine: Any,
    context_length: int,
    seed: int,
    transport: Transport,
    transfer_timeout_s: float,
    neighbour: int | None,
) -> Any:
    """The vLLM engine; runs in the worker's process, where the import of vllm belongs."""
    from rollout.vllm_engine import VllmEngine

    return VllmEngine(model_dir, engine, context_length, seed, transport, transfer_timeout_s, neighbour)


def open_group(host: str, port: int, size: int, device: Any) -> Any:
    """Rank 0's end of an NCCL group with an engine; runs in the learner's process, which imports vllm for it."""
    from rollout.vllm_group import NcclGroup

    return NcclGroup(host, port, size, device)


def make_decoder(model_dir: str) -> Any:
    """Token ids → text without special tokens, as verifiers see it."""
    from cluster.materials import load_tokenizer

    return partial(load_tokenizer(model_dir).decode, skip_special_tokens=True)
