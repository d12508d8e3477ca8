"""What the fake learner saved, and what the manifest says of it."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from disk import Mount

from trainer.phases import Phase

AFRESH = 1_000_000
"""An evaluation has the number of its version; after one whose verifiers failed, this plus it at the next try."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights, and digests of the batches that they were made from, in order."""

    weights: int
    steps: list[int]


class Checkpoints:
    """The named weights of a run."""

    def __init__(self, disk: Mount) -> None:
        self._disk = disk
        self._read: dict[str, Checkpoint] = {}

    def named(self, name: str) -> Checkpoint:
        if name not in self._read:
            self._read[name] = Checkpoint(**json.loads(bytes(self._disk.read(f"checkpoints/{name}/weights"))))
        return self._read[name]

    def require_complete(self, phases: Sequence[Phase]) -> None:
        """The manifest has every phase, and names what the checkpoints hold."""
        manifest = self._manifest
        done = [Phase.of(fields) for fields in manifest["done"]]
        assert len(done) == len(phases), f"{len(done)} of {len(phases)} phases are committed"
        assert all(made.is_same(wanted) for made, wanted in zip(done, phases, strict=True)), f"other phases: {done}"
        for name, digest in manifest["weights"].items():
            held = f"{self.named(name).weights:016x}"
            assert held == digest, f"{name} is {held} on the disk and {digest} in the manifest"

    def require_evaluations(self, phases: Sequence[Phase], steps: Mapping[int, int], every: int | None) -> None:
        """Every policy that got a name is evaluated, in order, and RL phases (by iteration) every so many steps."""
        wanted = [("theta-0", 0)]
        for phase in phases:
            if phase.kind == "rl" and every:
                middle = range(every, steps[phase.iteration], every)
                wanted += [(f"{phase.produces}-step-{step}", step) for step in middle]
            if phase.kind != "sample":
                wanted.append((phase.produces, 0))
        found = [(row["weights"], row["step"]) for row in self._manifest["evals"]]
        assert found == wanted, f"evaluations of {found}, not of {wanted}"

    @property
    def evaluated(self) -> dict[int, tuple[str, int]]:
        """Version that an evaluation began with → (weights, step) that the manifest says it is of."""
        return {row["number"] % AFRESH: (row["weights"], row["step"]) for row in self._manifest["evals"]}

    def began_from(self, phase: Phase) -> str:
        """What the manifest says that a phase started from: RFT that was skipped kept other weights, perhaps."""
        (made,) = (Phase.of(fields) for fields in self._manifest["done"] if Phase.of(fields).is_same(phase))
        return made.init_from

    @property
    def ended(self) -> dict[int, str]:
        """Iteration → why its RL phase ended early, as the manifest says."""
        return {fields["iteration"]: fields["ended"] for fields in self._manifest["done"] if fields["kind"] == "rl"}

    @functools.cached_property
    def _manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads(bytes(self._disk.read("manifest.json")))
        return manifest
