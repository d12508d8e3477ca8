"""Steps that the stability guard rolled back, as the manifest tells: their versions have older weights again."""

import json
from collections.abc import Mapping, Sequence

import arithmetic
from disk import Mount


class Rollbacks:
    """What the learner went back to, over a whole run."""

    def __init__(self, disk: Mount) -> None:
        restored = json.loads(bytes(disk.read("manifest.json")))["restored"]
        self._restored: dict[int, int] = dict(restored)
        assert len(restored) == len(self._restored), f"a version was rolled back twice: {restored}"
        assert all(version > again for version, again in restored), f"a version has weights to come: {restored}"

    def made(self, version: int, weights: Mapping[int, int], digest: int) -> int:
        """The weights of a version that a step on a batch made; `weights` are those of the versions before."""
        if (again := self._restored.get(version)) is not None:
            return weights[again]
        return arithmetic.trained(weights[version - 1], digest)

    def path(self, begun: int, digests: Sequence[int]) -> list[int]:
        """What is left in the weights of a phase that began with version `begun`, of the batches of its steps."""
        paths: list[list[int]] = [[]]
        for version, digest in enumerate(digests, start=begun + 1):
            again = self._restored.get(version)
            paths.append([*paths[-1], digest] if again is None else paths[again - begun])
        return paths[-1]
