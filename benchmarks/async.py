"""What asynchrony is worth: the same run with staleness bounds of 0, 1, 2 and 4, and with over-provisioned rounds.

    .venv/bin/python benchmarks/async.py [--json FILE] [--quick]

Real actors on Ray: buffer, verifier pool, one rollout worker with a vLLM engine, one learner rank; controller and
broadcaster live here. The policy is random, so answers end with equal chance after each token: most are short, a few
are ten times as long. Every variant does the same steps on the same problems with the same seeds. Beside them, in the
same run: generation alone, training alone on the same batches, both without anything between them, and the engine
without a worker around it.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from report import Row, arguments, report

from actors.ray_settings import prepare_local_cluster

prepare_local_cluster()  # before anything imports Ray

from actors import ray_app
from actors.broadcaster import WeightBroadcaster
from actors.buffer import RolloutBuffer
from actors.controller import Controller
from actors.learner_group import LearnerGroup
from actors.plan import Plan
from actors.rollout_worker import RolloutWorker
from actors.verifier_pool import VerifierPool
from cluster.casting import make_decoder, make_engine
from cluster.materials import probe_sequences
from cluster.workforce import close_all
from rollout.audit import audit
from rollout.config import EngineConfig, EvalConfig, RolloutConfig
from rollout.engine_env import ENGINE_ENV
from rollout.records import GenerationRequest, GroupKey, Prompt
from rollout.seeds import sample_seed
from rollout.storage import LocalDisk
from trainer.config import OptimConfig, RLConfig, ScheduleConfig, ScratchConfig, SFTConfig, TrainerConfig
from trainer.learner import LearnerRank
from trainer.learner_env import LEARNER_ENV
from trainer.phases import Phase

GROUPS, SIBLINGS, TOKENS, CONTEXT = 8, 8, 200, 224
CONCURRENT = 16
"""Groups in flight at most: 128 decode slots."""
SCRATCH = ScratchConfig(hidden_size=320, num_layers=5, num_heads=5, num_kv_heads=1, intermediate_size=896)
ENGINE = EngineConfig(kv_cache_mb=512, max_num_seqs=CONCURRENT * SIBLINGS)
TRAINER = TrainerConfig(
    compute_dtype="float32", micro_batch_tokens=4096, rl=RLConfig(optim=OptimConfig(lr=1e-9))
)  # the policy stays as it is, so that every variant has the same work

PATIENCE_S = 300.0
SEED = 0
NEVER = 1e9


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to pace generation."""

    name: str
    max_staleness: float
    oversample: float = 1.0


VARIANTS = (
    Variant("synchronous, η=0", 0),
    Variant("AReaL, η=1", 1),
    Variant("AReaL, η=2", 2),
    Variant("AReaL, η=4", 4),
    Variant("APRIL, η=1, 1.5 ×", 1, 1.5),
    Variant("APRIL, η=2, 1.5 ×", 2, 1.5),
)
ALONE = Variant("generation alone", 64)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a variant took."""

    seconds: float
    occupancy: float
    """Share of the decode slots in use, on average."""
    lost: float
    """Share of the generated tokens that were never trained."""


class BenchedBuffer(RolloutBuffer):
    """The shipped buffer, which can start over with another journal and other settings."""

    async def start_over(self, directory: Path, prompts: list[Prompt], config: RolloutConfig) -> None:
        await self.close()
        RolloutBuffer.__init__(self, LocalDisk(directory), prompts, [], config, SEED, PATIENCE_S)


class BareEngine:
    """The engine without a worker: the same requests, the same number of groups at once, nothing else."""

    def __init__(self, model_dir: str) -> None:
        self._engine = make_engine(model_dir, ENGINE, CONTEXT, SEED, "shared_memory", PATIENCE_S)

    async def generate(self, prompts: Sequence[Prompt]) -> tuple[float, int]:
        """(seconds, tokens) of all groups."""
        room = asyncio.Semaphore(CONCURRENT)

        async def sample(prompt: Prompt, index: int) -> int:
            seed = sample_seed(SEED, GroupKey("train", 0, prompt.id), index)
            ids = np.array(prompt.token_ids, np.int32)
            request = GenerationRequest(f"{prompt.id}/{index}", ids, TOKENS, 1.0, seed)
            return sum([len(piece) async for piece in self._engine.generate(request)])

        async def group(prompt: Prompt) -> int:
            async with room:
                return sum(await asyncio.gather(*(sample(prompt, index) for index in range(SIBLINGS))))

        began = time.perf_counter()
        tokens = sum(await asyncio.gather(*(group(prompt) for prompt in prompts)))
        return time.perf_counter() - began, tokens

    async def close(self) -> None:
        await self._engine.close()


class OnePhase:
    """A schedule of one RL phase."""

    def next(self, done: Sequence[Phase]) -> Phase | None:
        return None if done else Phase("rl", 0, init_from="theta-0", produces="rl-0")


class Stage:
    """The actors that stay up from variant to variant."""

    def __init__(self, folder: Path, steps: int) -> None:
        from trainer.scratch import make_model

        self.folder, self.steps = folder, steps
        self.prompts = [Prompt(f"p{i}", f"problem {i}", (2, 3, 4, 5, 6), str(i)) for i in range(GROUPS * steps)]
        model = str(make_model(SCRATCH, folder / "model", CONTEXT, SEED))
        host = partial(self._host, deadline_s=PATIENCE_S)
        self.verifiers = host(VerifierPool, "verifiers", "examples.parity:Parity", 1, 10.0)
        nothing = (LocalDisk(folder / "empty"), self.prompts, [], self.config(ALONE), SEED, PATIENCE_S)
        self.buffer = host(BenchedBuffer, "buffer", *nothing, peer=ray_app.BufferPeer)
        self.worker = host(
            RolloutWorker,
            "worker",
            "worker",
            partial(make_engine, model, ENGINE, CONTEXT, SEED, "shared_memory", PATIENCE_S),
            partial(make_decoder, model),
            self.buffer,
            self.verifiers,
            CONCURRENT,
            2.0,
            PATIENCE_S,
            PATIENCE_S,
            env=ENGINE_ENV,
        )
        self.bare = host(BareEngine, "bare-engine", model, env=ENGINE_ENV)
        self.rank = host(LearnerRank, "learner", 0, 1, model, TRAINER, env=LEARNER_ENV)

    async def up(self) -> None:
        """Wait until everybody is there."""
        await asyncio.gather(self.verifiers.start(), self.worker.engine_pids(), self.bare.process_id())
        await self.rank.connect(*await self.rank.rendezvous(), 60.0)
        await self.rank.begin_phase(None, TRAINER.rl.optim, self.steps)
        await self.worker.start()

    @staticmethod
    def config(variant: Variant) -> RolloutConfig:
        return RolloutConfig(
            group_size=SIBLINGS,
            groups_per_step=GROUPS,
            max_staleness=variant.max_staleness,
            oversample=variant.oversample,
            max_concurrent=CONCURRENT,
            max_new_tokens=TOKENS,
            context_length=CONTEXT,
            drop_zero_variance=False,
            engine=ENGINE,
        )

    async def generate_alone(self, run: str) -> tuple[float, list[Any]]:
        """(seconds, batches) with nobody training: each batch counts as trained as soon as it is there."""
        await self._start_over(run, ALONE)
        began = time.perf_counter()
        await self.buffer.begin_rl(0, self.steps, 0)
        batches = []
        for version in range(1, self.steps + 1):
            info, batch = await self.buffer.next_batch(PATIENCE_S)
            batches.append(batch)
            await self.buffer.trained(info.groups, version)
        seconds = time.perf_counter() - began
        await self.buffer.end_phase()
        return seconds, batches

    async def train_alone(self, batches: Sequence[Any]) -> float:
        """Seconds for all batches, with nobody generating."""
        began = time.perf_counter()
        for batch in batches:
            await self.rank.step(batch, "rl")
        return time.perf_counter() - began

    async def both_at_once(self, batches: Sequence[Any]) -> float:
        """Seconds of training while the bare engine generates as many steps, in lock-step and with nothing between.

        What two busy processes cost each other on this machine, whoever steers them.
        """
        began = time.perf_counter()
        for step, batch in enumerate(batches):
            prompts = self.prompts[step * GROUPS : (step + 1) * GROUPS]
            await asyncio.gather(self.rank.step(batch, "rl"), self.bare.generate(prompts))
        return time.perf_counter() - began

    async def run(self, variant: Variant) -> Measured:
        """A whole RL phase under the shipped controller."""
        run_dir = self.folder / variant.name.replace(" ", "-")
        await self._start_over(run_dir.name, variant)
        broadcaster = WeightBroadcaster(probe_sequences(21, CONTEXT), 1e-3, PATIENCE_S, PATIENCE_S)
        await broadcaster.join("worker", self.worker)
        controller = Controller(
            _plan(self.steps, variant.max_staleness),
            run_dir,
            OnePhase(),
            self.buffer,
            LearnerGroup([self.rank]),
            broadcaster,
        )
        occupancy = asyncio.create_task(self._occupancy())
        await controller.run()
        occupancy.cancel()
        await broadcaster.close()
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        steps = [row for row in rows if row["phase"] == "rl"]
        first, last = steps[0]["time"] - steps[0]["seconds"], steps[-1]["time"]
        lost, known = self._lost(run_dir.name, variant)
        return Measured(last - first, self._mean_between(first, last), lost / known)

    async def _start_over(self, run: str, variant: Variant) -> None:
        directory = self.folder / run
        directory.mkdir()
        await self.buffer.start_over(directory / "journal", self.prompts, self.config(variant))

    async def _occupancy(self) -> None:
        self._samples: list[tuple[float, float]] = []
        while True:
            health = await self.worker.health()
            self._samples.append((time.time(), health["requests"] / (CONCURRENT * SIBLINGS)))
            await asyncio.sleep(0.5)  # each question costs the worker 10 ms

    def _mean_between(self, first: float, last: float) -> float:
        return float(np.mean([share for at, share in self._samples if first <= at <= last]))

    def _lost(self, run: str, variant: Variant) -> tuple[int, int]:
        """(tokens never trained, tokens generated)."""
        journal = LocalDisk(self.folder / run / "journal")
        found = audit(journal, {"rl": SIBLINGS, "eval": 1}, variant.max_staleness)
        assert not found.faults, found.faults
        trained = found.run.tokens["trained"]
        lost = sum(found.run.untrained().values())
        return lost, lost + trained

    def _host(self, cls: type, name: str, *args: Any, **options: Any) -> Any:
        return ray_app.host(cls, name, *args, log_file=str(self.folder / "logs" / f"{name}.log"), **options)


def _plan(steps: int, max_staleness: float) -> Plan:
    return Plan(
        schedule=ScheduleConfig(iterations=1, rl_steps=steps),
        rl=TRAINER.rl.optim,
        rft=SFTConfig(),
        warmup=SFTConfig(),
        eval=EvalConfig(samples=1, ks=(1,)),
        warmup_dataset="",
        base_cache="",
        seed=SEED,
        stall_s=PATIENCE_S,
        checkpoint_every_s=NEVER,
        keep_checkpoints=2,
        save_timeout_s=PATIENCE_S,
        max_staleness=max_staleness,
        guard=TRAINER.guard,
        config_digest="benchmark",
    )


async def measure(folder: Path, steps: int, rounds: int) -> list[Row]:
    """All variants, `rounds` times; of each the fastest."""
    stage = Stage(folder, steps)
    say("engines and learner come up")
    await stage.up()
    await stage.generate_alone("warm-up")
    bare, alone, train, both = [], [], [], []
    measured: dict[Variant, list[Measured]] = {variant: [] for variant in VARIANTS}
    tokens = 0
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}: the engine by itself, generation alone, training alone")
        seconds, tokens = await stage.bare.generate(stage.prompts)
        bare.append(seconds)
        seconds, batches = await stage.generate_alone(f"alone-{number}")
        alone.append(seconds)
        train.append(await stage.train_alone(batches))
        both.append(await stage.both_at_once(batches))
        for variant in VARIANTS:
            say(f"round {number + 1} of {rounds}: {variant.name}")
            named = Variant(f"{variant.name} {number}", variant.max_staleness, variant.oversample)
            measured[variant].append(await stage.run(named))
    await close_all(
        {
            "worker": stage.worker,
            "bare engine": stage.bare,
            "learner": stage.rank,
            "buffer": stage.buffer,
            "verifiers": stage.verifiers,
        },
        seconds=20,
    )
    fastest = {variant: min(found, key=_seconds) for variant, found in measured.items()}
    return rows(tokens, min(bare), min(alone), min(train), min(both), fastest)


def _seconds(measured: Measured) -> float:
    return measured.seconds


def rows(
    tokens: int, bare: float, alone: float, train: float, both: float, measured: dict[Variant, Measured]
) -> list[Row]:
    """The table."""
    synchronous = measured[VARIANTS[0]].seconds
    table = [
        Row("the engine by itself", tokens / bare, "tokens/s"),
        Row("worker, of the engine's own throughput", bare / alone, "ratio", aim=0.97),
        Row("generation alone", alone, "s"),
        Row("training alone", train, "s"),
        Row("both at once, nothing between them", both, "s"),
        Row("  overlap efficiency", max(alone, train) / both, "ratio"),
    ]
    for variant, found in measured.items():
        aimed = variant == VARIANTS[2]
        table += [
            Row(variant.name, found.seconds, "s"),
            Row("  faster than synchronous", synchronous / found.seconds, "×", aim=1.6 if aimed else None),
            Row("  overlap efficiency", max(alone, train) / found.seconds, "ratio", aim=0.9 if aimed else None),
            Row("  decode slots in use", found.occupancy, "ratio"),
            Row("  tokens never trained", found.lost, "ratio", better="lower"),
        ]
    return table


def say(what: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {what}", flush=True)


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    steps, rounds = (4, 1) if options.quick else (12, 2)
    with tempfile.TemporaryDirectory(prefix="rloop-async-") as folder, ray_app.cluster(None, False, 8, 256):
        table = asyncio.run(measure(Path(folder), steps, rounds))
    report("What asynchrony is worth", table, options.json)


if __name__ == "__main__":
    main()
