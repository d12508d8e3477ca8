"""The runs of `rloop_effect.py`: a method and a seed each, one after the other; what is finished is not run again."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes

from actors.manifest import Manifest
from cluster.config import RunConfig
from cluster.settings import load
from rollout.storage import LocalDisk
from trainer.schedules import make_scheduler

ROOT = Path(__file__).parents[1]
RECIPE = "recipes/countdown.yaml"
METHODS = {
    "plain RL": "vanilla",
    "RLoop": "rloop",
    "RFT from RL's end": "rl-then-rft-from-end",
    "experts of the last step": "rloop-last-step-only",
    "RFT without RL": "rft-only",
}
"""As the tables call them → `schedule.scheduler`."""
ON_THE_WAY = {"plain RL": "eval.every_steps={rl_steps}", "RLoop": "eval.after_rl=true"}
"""What is evaluated besides the policies that an iteration ends with, for the figure."""
DEADLINE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Policy:
    """Evaluated weights of a run."""

    rl_steps: int
    """RL steps (or as much sampling) that the run had spent by then."""
    after_rft: bool
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a method under a seed."""

    method: str
    seed: int
    policies: tuple[Policy, ...]
    """In order, the base policy first."""
    sampled_tokens: int
    """Of training problems, whatever became of them."""
    rft_tokens: int
    """Answer tokens that fine-tuning passed through the learner."""
    rft_s: float
    diversity: float
    """`inter_step_diversity` at the last RL step; NaN where there is none."""

    @property
    def base(self) -> Mapping[str, float]:
        """Metrics before any training."""
        return self.policies[0].metrics

    @property
    def final(self) -> Mapping[str, float]:
        """Metrics of the policy that the run ends with."""
        return self.policies[-1].metrics


def run_or_resume(method: str, seed: int, settings: list[str], runs_dir: Path, say: Callable[[str], None]) -> Run:
    """`rloop train`, or `rloop resume`, or nothing where the run is finished; what it came to."""
    named = f"{METHODS[method]}-{seed}"
    steps = load(ROOT / RECIPE, settings).schedule.rl_steps
    settings = [
        *settings,
        ON_THE_WAY.get(method, "eval.after_rl=false").format(rl_steps=steps),
        f"schedule.scheduler={METHODS[method]}",
        f"cluster.seed={seed}",
        f"cluster.name={named}",
        f"cluster.runs_dir={runs_dir}",
    ]
    config = load(ROOT / RECIPE, settings)
    directory = runs_dir / named
    if not _finished(config, directory):
        begun = (directory / "config.yaml").exists()
        say(f"{method}, seed {seed}{': goes on' if begun else ''}")
        what = ["resume", str(directory)] if begun else ["train", RECIPE, *settings]
        processes.run([sys.executable, "-m", "cluster", *what], ROOT, runs_dir / f"{named}.log", {}, DEADLINE_S)
    return read(method, seed, directory)


def _finished(config: RunConfig, directory: Path) -> bool:
    manifest = Manifest.load(LocalDisk(directory)) if directory.exists() else None
    if manifest is None or manifest.phase:
        return False
    return (
        make_scheduler(config.schedule, bool(manifest.done and manifest.done[0].kind == "warmup")).next(manifest.done)
        is None
    )


def read(method: str, seed: int, directory: Path) -> Run:
    """A finished run, from its manifest, its metrics and its journal."""
    manifest = Manifest.load(LocalDisk(directory))
    assert manifest is not None
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    rft = [line for line in lines if line["phase"] == "rft"]
    diversity = [line["inter_step_diversity"] for line in lines if "inter_step_diversity" in line]
    return Run(
        method,
        seed,
        tuple(policies(manifest)),
        _sampled_tokens(directory),
        round(sum(line["tokens"] for line in rft)),
        sum(line["seconds"] for line in rft),
        diversity[-1] if diversity else float("nan"),
    )


def policies(manifest: Manifest) -> list[Policy]:
    """What was evaluated, in order, and what it had cost."""
    spent, before, made = 0, {}, {}
    for phase in manifest.done:
        before[phase.produces] = spent
        spent += phase.steps
        if phase.kind != "sample":  # that makes answers, no weights
            made[phase.produces] = (spent, phase.kind == "rft")
    found = []
    for row in manifest.evals:
        if row.step:
            phase_name = row.weights.rpartition("-step-")[0]
            found.append(Policy(before[phase_name] + row.step, False, row.metrics))
        else:
            steps, after_rft = made.get(row.weights, (0, False))
            found.append(Policy(steps, after_rft, row.metrics))
    return found


def _sampled_tokens(directory: Path) -> int:
    from rollout.events import Finished, replay
    from rollout.journal import read_payloads

    journal = LocalDisk(directory / "journal")
    refs = [e.payload for e in replay(journal) if isinstance(e, Finished) and e.key.purpose == "train"]
    groups: Any = read_payloads(journal, refs, ("token_ids",))
    return sum(len(batch["token_ids"].flatten()) for _, batch in groups)
