"""A change of phase is one transaction: whenever everything dies, the next start comes to the same end."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from controller_fakes import FakeLearner, Mortal, make

from actors.manifest import Manifest
from actors.waiting import PeerLost
from rollout.storage import LocalDisk
from trainer.config import PhaseEndConfig, RFTConfig
from trainer.phases import Phase

SETTINGS: dict[str, dict[str, Any]] = {
    "rloop": {"every_steps": 1, "eval_overlap": False, "rft": RFTConfig(holdout_frac=0.1, check_every=1, patience=1)},
    "rloop that skips RFT": {"iterations": 1, "experts": 1, "schedule": {"if_too_few": "keep_rl"}},
    "rloop that ends RL early": {
        "iterations": 1,
        "rl_steps": 4,
        "schedule": {"end": PhaseEndConfig(entropy=1, patience=1, min_steps=1)},
    },
    "rl-then-rft-from-end": {"checkpoint_every_s": 0.0},
    "rft-only": {},
    "merge": {},
}


@dataclass(frozen=True)
class End:
    """What a run came to."""

    done: tuple[Phase, ...]
    weights: dict[str, str]
    started_from: dict[str, str]
    evaluated: tuple[tuple[str, int, int], ...]
    version: int


def run(directory: Path, name: str, dies_at: int) -> tuple[list[str], list[dict[str, str]], End]:
    """What was called until the first death; what engines took in each life, by version; the end."""
    directory.mkdir()
    scheduler = name.partition(" ")[0]
    settings = {"scheduler": scheduler, "iterations": 2, "rl_steps": 2} | SETTINGS[name]
    calls: list[str] = []
    learners: list[FakeLearner] = []
    for wrap in (Mortal(calls, dies_at), Mortal([], 10**6)):
        controller, learner, _, _ = make(directory, **settings, wrap=wrap)
        learner.metrics = lambda weights: {"entropy": 2.0 - weights.count("+")}  # too low in the third step
        learner.losses = Losses()
        learners.append(learner)
        try:
            status = asyncio.run(controller.run())
        except PeerLost:
            continue
        assert status.state == "finished"
    manifest = Manifest.load(LocalDisk(directory))
    assert manifest is not None
    evaluated = tuple((row.weights, row.step, row.number) for row in manifest.evals)
    end = End(manifest.done, manifest.weights, manifest.started_from, evaluated, manifest.version)
    return calls, [dict(line.split()[1:] for line in life.log if line.startswith("stage")) for life in learners], end


class Losses(dict[str, float]):
    """Held-out loss by weights: lowest after the first step of a fine-tuning of two."""

    def __missing__(self, weights: str) -> float:
        return float(len(weights) - len(weights.rstrip("s")))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_death_at_any_point_of_a_run_changes_nothing_about_its_end(tmp_path, name):
    calls, (undisturbed, _), expected = run(tmp_path / "undisturbed", name, 10**6)
    assert len(calls) > 20
    for point in range(1, len(calls) + 1):
        _, lives, end = run(tmp_path / str(point), name, point)
        assert end == expected, f"death before {calls[point - 1]}, call {point}"
        for life in lives:  # no version was ever the number of other weights
            assert life.items() <= undisturbed.items(), f"death before {calls[point - 1]}, call {point}"
