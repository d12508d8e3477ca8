"""What the fake learner saved, and what the manifest says of it."""

import json
from dataclasses import dataclass

from disk import Mount


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

    def start_of(self, phase: int, rft: bool) -> Checkpoint:
        """What an RL phase starts from."""
        return self.named(f"theta-{phase}" if rft or phase == 0 else f"rl-{phase - 1}")

    def of_evaluation(self, number: int, rft: bool) -> int:
        """The weights that the evaluation with this number is of; one that failed is drawn anew under another."""
        number %= 1000
        if number == 0:
            return self.named("theta-0").weights
        if not rft:
            return self.named(f"rl-{number - 1}").weights
        phase, half = divmod(number - 1, 2)
        return self.named(f"theta-{phase + 1}" if half else f"rl-{phase}").weights

    def require_complete(self, rl_phases: int, rft: bool) -> None:
        """The manifest has every phase, and names what the checkpoints hold."""
        manifest = json.loads(bytes(self._disk.read("manifest.json")))
        wanted = rl_phases * (2 if rft else 1)
        assert len(manifest["done"]) == wanted, f"{len(manifest['done'])} of {wanted} phases are committed"
        assert len(manifest["evals"]) == wanted + 1, f"{len(manifest['evals'])} of {wanted + 1} evaluations are there"
        for name, digest in manifest["weights"].items():
            held = f"{self.named(name).weights:016x}"
            assert held == digest, f"{name} is {held} on the disk and {digest} in the manifest"
