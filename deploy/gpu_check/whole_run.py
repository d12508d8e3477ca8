"""The last part: a whole run of recipes/smoke.yaml, Ray and all."""

import json
import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

from cluster.invocation import installed
from deploy.gpu_check.place import Place, Wrong
from rollout.leash import end_with_parent

ROOT = Path(__file__).parents[2]


def recipe(device: str, gpus: int = 0) -> list[str]:
    """A run file and what is laid over it: engine and learner rank share the only GPU, or have one each."""
    smoke = [str(ROOT / "recipes" / "smoke.yaml"), "trainer.ranks=1"]
    if device == "cpu":
        return [*smoke, "cluster.device=cpu"]
    # The overlay asks for long answers, and GPU kernels for heads of a usual width.
    small = ["rollout.max_new_tokens=48", "rollout.context_length=80", "model.scratch.head_dim=128"]
    shared = ["cluster.layout=colocated", "rollout.engine.kv_cache_mb=1024"] if gpus == 1 else []
    return [*smoke, str(ROOT / "recipes" / "gpu.yaml"), *small, *shared]


def loop(place: Place) -> str:
    """RL, experts, RFT and evaluations, with one engine and one learner rank."""
    gpus = place.gpus()
    runs = place.folder / "runs"
    command = [installed(), "train", *recipe(place.device, gpus), f"cluster.runs_dir={runs}"]
    # From there the recipe's verifier is found; and a run whose check is gone ends in good order.
    code = subprocess.run(
        command, cwd=ROOT, check=False, preexec_fn=partial(end_with_parent, signal.SIGTERM)
    ).returncode
    if code:
        raise Wrong(f"rloop train ended with {code}; what it printed is in {place.folder / 'loop.log'}")
    lines = [json.loads(line) for line in (runs / "smoke" / "metrics.jsonl").read_text().splitlines()]
    return summary(lines)


def summary(lines: list[dict[str, Any]]) -> str:
    """What a finished run's metrics.jsonl says.

    Raises:
        Wrong: When a kind of line is missing that every run of the recipe writes.
    """
    of = {kind: [line for line in lines if line["phase"] == kind] for kind in ("rl", "rft", "sync", "eval")}
    if missing := [kind for kind, found in of.items() if not found]:
        raise Wrong(f"the run wrote no line of {', '.join(missing)} to metrics.jsonl")
    first, last = of["rl"][0]["reward"], of["rl"][-1]["reward"]
    off = max(line["probe_max_diff"] for line in of["sync"])
    return (
        f"{len(of['rl'])} RL and {len(of['rft'])} RFT steps, {len(of['sync'])} weight syncs off by at most {off:.1g} "
        f"nats, {len(of['eval'])} evaluations; reward {first:.2f} to {last:.2f}"
    )
