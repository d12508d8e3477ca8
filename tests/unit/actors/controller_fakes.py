"""What the controller's tests share: fakes whose weights are strings, so that what they are made of can be read."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.controller import Controller
from actors.manifest import Manifest
from actors.plan import Plan
from actors.records import BufferStatus
from actors.waiting import PeerLost
from rollout.config import EvalConfig
from rollout.expert_report import ExpertReport
from rollout.expert_rule import ExpertRule
from rollout.records import BatchInfo, EvalCounts, GroupKey
from rollout.storage import LocalDisk
from rollout.weights import WeightLayout, WeightSlot
from trainer.config import GuardConfig, OptimConfig, RFTConfig, ScheduleConfig, SFTConfig
from trainer.directories import NotWritten
from trainer.schedules import make_scheduler


class FakeLearner:
    """Weights are a string that grows by a letter per step; a checkpoint is that string in a file.

    A step checkpoint is on the disk when `disk_takes` steps more were trained, or when somebody waits for it. `metrics`
    gives those of a step by the weights that it began with, as a real learner does.
    """

    def __init__(self) -> None:
        self.weights = "base"
        self.log: list[str] = []
        self.disk_takes = 0
        self.full_disk = False
        self.metrics: Callable[[str], dict[str, float]] = lambda weights: {}
        self.losses: dict[str, float] = {}
        """Held-out loss, by the weights."""
        self._writing: tuple[Path, str] | None = None
        self._steps_left = 0

    async def begin_phase(self, weights: str | None, optim: OptimConfig, total_steps: int) -> str:
        if weights is not None:
            self.weights = (Path(weights) / "weights").read_text()
        self.log.append(f"begin {self.weights}")
        return self.weights

    async def merge(self, sources: Sequence[tuple[str, float]]) -> str:
        self.weights = "|".join(
            f"{share:g}*{(Path(directory) / 'weights').read_text()}" for directory, share in sources
        )
        return self.weights

    async def resume(self, directory: str, began_from: str | None, optim: OptimConfig, total_steps: int) -> None:
        self.weights = (Path(directory) / "weights").read_text()
        self.log.append(f"resume {self.weights}")

    async def step(self, batch: object, objective: str) -> dict[str, float]:
        metrics = {"loss": 0.5} | self.metrics(self.weights)
        self.weights += "+" if objective == "rl" else "s"
        self._steps_left -= 1
        return metrics

    async def nll(self, batch: object) -> float:
        assert batch == "held out"
        return self.losses[self.weights]

    async def layout(self) -> WeightLayout:
        return WeightLayout.of([("w", "float32", (1,))])

    async def stage(self, slot: WeightSlot) -> None:
        self.log.append(f"stage {slot.version} {self.weights}")

    async def probe(self, sequences: object) -> list[np.ndarray]:
        return [np.zeros(3, np.float32)]

    async def weights_hash(self) -> str:
        return self.weights

    async def save(self, directory: str, optimizer: bool) -> None:
        assert self._writing is None, "one save at a time"
        self._writing, self._steps_left = (Path(directory), self.weights), self.disk_takes
        self.log.append(f"save {self.weights}")

    async def saved(self, timeout_s: float) -> bool:
        if self._writing is None:
            return True
        if timeout_s == 0 and self._steps_left > 0:
            return False
        (directory, weights), self._writing = self._writing, None
        if self.full_disk:
            raise NotWritten(f"checkpoint {directory} could not be written")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "weights").write_text(weights)
        return True

    async def export(self, directory: str) -> None:
        Path(directory).mkdir(parents=True, exist_ok=True)


class FakeBroadcaster:
    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.versions: list[int] = []

    async def claim(self, layout: WeightLayout, version: int) -> WeightSlot:
        return WeightSlot("", layout, version)

    async def publish(self, slot: WeightSlot, expected: object) -> dict[str, float]:
        self.versions.append(slot.version)
        self.log.append(f"publish {slot.version}")
        return {"sync_s": 0.0}

    async def probe_sequences(self) -> list[np.ndarray]:
        return [np.zeros(4, np.int32)]


class FakeBuffer:
    def __init__(self, log: list[str], experts: int = 100) -> None:
        self.log = log
        self.experts = experts
        self.began: list[tuple[str, int]] = []
        self.hang = False
        self.batches = 0
        self.sft_steps = 2
        self.holds_out = False
        self.goes_on: int | None = None
        """So many steps are to be trained again in a phase that never stopped; None: there is none."""

    async def take_up(self, iteration: int, version: int, done_steps: int) -> int | None:
        return self.goes_on

    async def begin_rl(self, iteration: int, steps: int, version: int, done_steps: int = 0) -> None:
        self.began.append(("rl", done_steps))

    async def begin_sft(
        self, dataset: str, batch_size: int, epochs: float, seed: int, done_steps: int = 0, holdout_frac: float = 0.0
    ) -> int:
        self.began.append((Path(dataset).name, done_steps))
        self.holds_out = holdout_frac > 0
        return self.sft_steps

    async def held_out_batch(self) -> object | None:
        return "held out" if self.holds_out else None

    async def begin_eval(self, number: int, samples: int, temperature: float, limit: int | None) -> None:
        self.log.append("eval")

    async def begin_sample(self, iteration: int, groups: int, version: int) -> int:
        self.began.append(("sample", groups))
        return 0

    async def sampled(self, timeout_s: float) -> dict[str, float]:
        return {"reward": 0.25}

    async def evaluated(self, number: int) -> list[EvalCounts]:
        return await self.eval_result(0)

    async def end_phase(self) -> None: ...

    async def end_eval(self) -> None: ...

    async def new_version(self, version: int) -> None:
        self.log.append(f"admit {version}")

    async def next_batch(self, timeout_s: float) -> tuple[BatchInfo, object]:
        if self.hang:
            await asyncio.sleep(timeout_s)
            raise TimeoutError("0 of 4 groups ready")
        self.batches += 1
        tiers = ("A",) if self.batches == 1 else ("B",)
        return BatchInfo((GroupKey("train", 0, f"p{self.batches}"),), 4, 40, 20, {"reward": 1.0}, isolation=tiers), None

    async def trained(self, keys: object, version: int, ends: str = "") -> None:
        self.log.append(f"trained {version}")

    async def tighten(self, max_staleness: float) -> None:
        self.log.append(f"tighten {max_staleness:g}")

    async def eval_result(self, timeout_s: float) -> list[EvalCounts]:
        return [EvalCounts(prompt_id="e0", tag="t", attempts=4, correct=2, failed=0, truncated=0, tokens=40)]

    async def select_experts(self, iteration: int, rule: ExpertRule, out: str) -> ExpertReport:
        return ExpertReport(kept=self.experts)

    async def status(self) -> BufferStatus:
        return BufferStatus()


def make(
    run_dir: Path,
    *,
    iterations: int = 2,
    warmup: bool = False,
    scheduler: str = "rloop",
    schedule: dict[str, Any] | None = None,
    every_steps: int | None = None,
    eval_overlap: bool = True,
    keep_best: bool = False,
    after_rl: bool = True,
    rft: RFTConfig | None = None,
    experts: int = 100,
    overlap: bool = True,
    rl_steps: int = 3,
    checkpoint_every_s: float = 1e9,
    storage: LocalDisk | None = None,
    max_staleness: float = 0.0,
    guard: GuardConfig | None = None,
    wrap: Callable[[Any], Any] = lambda actor: actor,
):
    """A controller over fakes, and those; it calls what `wrap` makes of them."""
    phases = ScheduleConfig(scheduler=scheduler, iterations=iterations, rl_steps=rl_steps, **(schedule or {}))
    plan = Plan(
        schedule=phases,
        rl=OptimConfig(),
        rft=rft or RFTConfig(),
        warmup=SFTConfig(),
        eval=EvalConfig(
            samples=4, ks=(1, 4), every_steps=every_steps, overlap=eval_overlap, keep_best=keep_best, after_rl=after_rl
        ),
        warmup_dataset="warmup.parquet" if warmup else "",
        base_cache="",
        seed=0,
        stall_s=0.05,
        checkpoint_every_s=checkpoint_every_s,
        keep_checkpoints=2,
        save_timeout_s=0.05,
        max_staleness=max_staleness,
        groups_per_step=1,
        guard=guard or GuardConfig(),
        config_digest="d",
        overlap_sync=overlap,
    )
    learner = FakeLearner()
    broadcaster, buffer = FakeBroadcaster(learner.log), FakeBuffer(learner.log, experts)
    peers = wrap(buffer), wrap(learner), wrap(broadcaster)
    controller = Controller(plan, run_dir, make_scheduler(phases, warmup), *peers, storage)
    return controller, learner, broadcaster, buffer


class Commits(LocalDisk):
    """A run's folder that remembers every manifest, and which step checkpoints were whole when it was written."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._run_dir = root
        self.seen: list[tuple[Manifest, dict[str, str]]] = []

    def replace(self, name, data):
        super().replace(name, data)
        whole = self._run_dir.glob("checkpoints/steps/*/weights")
        held = {str(file.parent.relative_to(self._run_dir)): file.read_text() for file in whole}
        self.seen.append((Manifest.load(LocalDisk(self._run_dir)), held))


class Mortal:
    """Passes calls on, until the one that its run dies of."""

    def __init__(self, calls: list[str], dies_at: int) -> None:
        self._calls = calls
        self._dies_at = dies_at

    def __call__(self, actor: Any) -> Any:
        calls, dies_at = self._calls, self._dies_at

        class Peer:
            def __getattr__(self, method: str) -> Any:
                async def call(*args: Any, **kwargs: Any) -> Any:
                    calls.append(f"{method} {args[1]}" if method == "trained" else method)
                    if len(calls) >= dies_at:
                        raise PeerLost(f"everything died before {method}")
                    return await getattr(actor, method)(*args, **kwargs)

                return call

        return Peer()
