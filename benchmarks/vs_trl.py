"""RLoop against TRL's GRPOTrainer on the CPU of this machine: same model, prompts, group size, lengths and steps.

    .venv/bin/python benchmarks/vs_trl.py [--json FILE] [--quick] [--try-all]

RLoop is `rloop train recipes/demo.yaml`, the whole system: one core for its engine, one for its learner. TRL has
two torch threads and an environment of its own (`.venv-trl`, made on first use). Both do one update per 16 groups of 16
answers, without a reference policy. Two workloads, each with a model of 0.45 M parameters:

    countdown    the demo's task and warmed-up policy; 80 problems, so five steps are one pass over them
    long tail    the same model untrained: after each token an answer ends with the same chance, of 200 at most

TRL's configurations were tried on the countdown workload, in samples/s, on a machine that others used too; `--try-all`
tries them again: one micro-batch of 256 answers 210, 4 micro-batches 193, 16 micro-batches 112, static KV cache 182,
bfloat16 weights 126, bfloat16 autocast 41, continuous batching 10. The first is used. TRL's `use_vllm` (colocate) was
tried with the CPU build of vLLM: the engine comes up, and the first transfer of weights fails, because that build packs
them (`Parameter has no attribute weight_loader`).
"""

import json
import shutil
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes
from report import Row, arguments, report

from cluster.config import RunConfig
from cluster.materials import load_data, load_tokenizer
from cluster.settings import load

ROOT = Path(__file__).parents[1]
TRL_VENV = ROOT / ".venv-trl"
DEADLINE_S = 900.0
SETTLE = 3
"""Steps at the beginning that do not count."""
OVER = 5
"""Steps that the running mean of the reward is over."""
THREADS = 2
"""Of TRL's torch; RLoop has an engine and a learner of one thread each."""

LIKE_TRL = (
    "schedule.iterations=1",
    "schedule.min_experts=1000000",  # no RFT
    "eval.samples=1",
    "eval.ks=[1]",
    "eval.limit=1",
    "rollout.drop_zero_variance=false",
    "actors.checkpoint_every_s=1000000",  # only at the end
    "trainer.ranks=1",
)
"""What TRL's trainer does not do here, RLoop does not do either."""
PROCESSES = {"RolloutWorker": "engine", "rollout-worker": "engine", "LearnerRank": "learner", "/learner-": "learner"}


@dataclass(frozen=True, slots=True)
class Workload:
    """What both sides do."""

    name: str
    settings: tuple[str, ...]
    """Laid over recipes/demo.yaml."""
    steps: int
    quick_steps: int
    level: float | None = None
    """The mean reward whose first reach is timed; None where nothing is to be learned."""


WORKLOADS = (
    Workload("countdown", ("data.countdown.train_problems=80",), 60, 12, level=0.3),
    Workload(
        "long tail",
        (
            "schedule.warmup_demos=0",
            "verifier.name=examples.parity:Parity",
            "rollout.max_new_tokens=200",
            "rollout.context_length=224",
            "rollout.engine.kv_cache_mb=512",
            "trainer.rl.optim.lr=1e-9",  # so that lengths stay as they are
        ),
        12,
        6,
    ),
)

WHOLE = {"per_device_train_batch_size": 256}
TRL_BEST: dict[str, dict[str, Any]] = {"countdown": WHOLE, "long tail": WHOLE}
TRL_TRIED: dict[str, dict[str, Any]] = {
    "one micro-batch": WHOLE,
    "4 micro-batches": {"per_device_train_batch_size": 64, "gradient_accumulation_steps": 4},
    "16 micro-batches": {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 16},
    "static KV cache": WHOLE | {"cache_implementation": "static"},
    "bfloat16 autocast": WHOLE | {"bf16": True},
    "continuous batching": WHOLE | {"use_transformers_continuous_batching": True},
}


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step."""

    ended: float
    """Seconds since 1970."""
    samples: int
    reward: float
    """Mean over the answers."""
    length: float
    """Tokens of an answer, on average."""
    spent: Mapping[str, float]
    """Seconds by what the training loop did."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one of the two did."""

    start_s: float
    """From the command to the first thing done."""
    began: float
    """When training began, in seconds since 1970."""
    steps: Sequence[Step]
    tree: processes.ProcessTree

    @property
    def counted(self) -> Sequence[Step]:
        """The steps after those at the beginning."""
        return self.steps[SETTLE:]

    @property
    def samples(self) -> int:
        """Answers trained in the counted steps."""
        return sum(step.samples for step in self.counted)

    @property
    def seconds(self) -> float:
        """Wall time of the counted steps."""
        return self.steps[-1].ended - self.steps[SETTLE - 1].ended

    @property
    def length(self) -> float:
        """Mean length of the answers in the counted steps."""
        return sum(step.length for step in self.counted) / len(self.counted)

    def cpu(self) -> dict[str, float]:
        """CPU seconds by kind of process over the counted steps."""
        return self.tree.between(self.steps[SETTLE - 1].ended, self.steps[-1].ended)

    def spent(self) -> dict[str, float]:
        """Seconds by what the training loop did, over the counted steps."""
        total: Counter[str] = Counter()
        for step in self.counted:
            total.update(step.spent)
        return dict(total)

    def reaches(self, level: float) -> float | None:
        """Seconds of training until the running mean of the reward is at `level`; None when it never is."""
        for end in range(OVER, len(self.steps) + 1):
            window = self.steps[end - OVER : end]
            if sum(step.reward for step in window) >= level * OVER:
                return window[-1].ended - self.began
        return None


# -- RLoop ------------------------------------------------------------------------------------------------------------


def run_rloop(workload: Workload, steps: int, folder: Path) -> tuple[Side, RunConfig, Path]:
    """`rloop train`, the whole system; also what it was told, and the directory of the policy that it started from."""
    name = f"vs-trl-{workload.name.replace(' ', '-')}"
    recipe = str(ROOT / "recipes" / "demo.yaml")
    settings = [*LIKE_TRL, *workload.settings, f"schedule.rl_steps={steps}", f"cluster.name={name}"]
    config = load(Path(recipe), settings)
    run_dir = ROOT / config.run_dir
    shutil.rmtree(run_dir, ignore_errors=True)
    command = [sys.executable, "-m", "cluster", "train", recipe, *settings]
    tree = processes.run(command, ROOT, folder / "rloop.log", PROCESSES, DEADLINE_S)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["phase"] == "rl"]
    size = config.rollout.group_size * config.rollout.groups_per_step
    began = trained[0]["time"] - trained[0]["seconds"]
    side = Side(rows[0]["time"] - tree.began, began, [_rloop_step(row, size) for row in trained], tree)
    return side, config, run_dir / "checkpoints" / "theta-0" / "hf"


def _rloop_step(row: Mapping[str, Any], samples: int) -> Step:
    spent = {
        "waits for answers": row["wait_batch_s"],
        "forward, backward, optimizer": row["train_s"],
        "waits for the engine to take weights": row["wait_sync_s"],
    }
    spent["record, copy of the weights, probe"] = row["seconds"] - sum(spent.values())
    return Step(row["time"], samples, row["reward"], row["response_len_mean"], spent)


# -- TRL --------------------------------------------------------------------------------------------------------------


def make_trl_venv(folder: Path) -> None:
    """TRL's own environment, on first use."""
    if not (TRL_VENV / "bin" / "python").exists():
        say("the environment of TRL is made (once)")
        command = ["sh", "benchmarks/trl_venv.sh", str(TRL_VENV), sys.prefix]
        processes.run(command, ROOT, folder / "venv.log", {}, DEADLINE_S)


def run_trl(config: RunConfig, model_dir: Path, settings: Mapping[str, Any], steps: int, folder: Path) -> Side:
    """TRL's trainer on what `config` says."""
    job, result = folder / "job.json", folder / "result.json"
    job.write_text(json.dumps(trl_job(config, model_dir, settings, steps, folder / "trl")))
    command = [str(TRL_VENV / "bin" / "python"), "-m", "benchmarks.trl_side", str(job), str(result)]
    tree = processes.run(command, ROOT, folder / "trl.log", {}, DEADLINE_S)
    found = json.loads(result.read_text())
    return Side(found["began"] - tree.began, found["began"], [Step(**step) for step in found["steps"]], tree)


def trl_job(
    config: RunConfig, model_dir: Path, settings: Mapping[str, Any], steps: int, output_dir: Path
) -> dict[str, Any]:
    """The run in TRL's words; `settings` win."""
    rollout, rl = config.rollout, config.trainer.rl
    problems = load_data(config, load_tokenizer(str(model_dir))).train
    grpo = {
        "output_dir": str(output_dir),
        "max_steps": steps,
        "seed": config.cluster.seed,
        "num_generations": rollout.group_size,
        "max_completion_length": rollout.max_new_tokens,
        "temperature": rollout.temperature,
        "beta": 0.0,  # no reference policy
        "loss_type": "dapo",
        "epsilon": rl.clip_low,
        "epsilon_high": rl.clip_high,
        "scale_rewards": "group",
        "learning_rate": rl.optim.lr,
        "warmup_steps": rl.optim.warmup_steps,
        "lr_scheduler_type": "constant_with_warmup",
        "weight_decay": rl.optim.weight_decay,
        "max_grad_norm": config.trainer.max_grad_norm,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    return {
        "model_dir": str(model_dir),
        "verifier": config.verifier.name,
        "threads": THREADS,
        "problems": [{"prompt": problem.text, "reference": problem.reference} for problem in problems],
        "grpo": grpo | dict(settings),
    }


# -- both -------------------------------------------------------------------------------------------------------------


def compare(workload: Workload, rloop: Side, trl: Side) -> list[Row]:
    """The rows of a workload."""
    rows = [
        Row(f"{workload.name}: RLoop", rloop.samples / rloop.seconds, "samples/s"),
        Row(f"{workload.name}: TRL", trl.samples / trl.seconds, "samples/s"),
        Row("  RLoop / TRL", rloop.samples / rloop.seconds / (trl.samples / trl.seconds), "×", aim=5.0),
    ]
    for name, side in (("RLoop", rloop), ("TRL", trl)):
        rows += _details(name, side, workload.level)
    return rows


def _details(name: str, side: Side, level: float | None) -> list[Row]:
    steps, thousands = len(side.counted), side.samples / 1000
    rows = [
        Row(f"  {name}: start", side.start_s, "s", better="lower"),
        Row(f"  {name}: length of an answer", side.length, "tokens"),
    ]
    if level is not None and (reached := side.reaches(level)) is not None:
        rows.append(Row(f"  {name}: reward {level:g} reached after", reached, "s", better="lower"))
    rows += [Row(f"  {name}: {what}", s / steps, "s/step", better="lower") for what, s in side.spent().items()]
    cpu = side.cpu()
    rows += [Row(f"  {name}: CPU, {what}", s / thousands, "s/1000", better="lower") for what, s in cpu.items()]
    return [*rows, Row(f"  {name}: CPU", sum(cpu.values()) / thousands, "s/1000", better="lower")]


def measure(options: Namespace, folder: Path) -> list[Row]:
    """All workloads, RLoop first."""
    rows: list[Row] = []
    for workload in WORKLOADS:
        steps = workload.quick_steps if options.quick else workload.steps
        say(f"{workload.name}: RLoop, {steps} steps")
        rloop, config, base = run_rloop(workload, steps, folder)
        if options.try_all:
            for name, settings in TRL_TRIED.items():
                say(f"{workload.name}: TRL, {name}")
                tried = run_trl(config, base, settings, SETTLE + 3, folder)
                rows.append(Row(f"{workload.name}: TRL, {name}", tried.samples / tried.seconds, "samples/s"))
        say(f"{workload.name}: TRL, {steps} steps")
        trl = run_trl(config, base, TRL_BEST[workload.name], steps, folder)
        rows += compare(workload, rloop, trl)
    return rows


def say(what: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {what}", flush=True)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--try-all", action="store_true", help="a few steps of every configuration of TRL as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rloop-vs-trl-") as folder:
        make_trl_venv(Path(folder))
        rows = measure(options, Path(folder))
    report("RLoop against TRL on CPU", rows, options.json)


if __name__ == "__main__":
    main()
