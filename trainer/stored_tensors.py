"""The tensors of a model directory: their names and shapes, and any rows of them, read without the rest."""

from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from rollout.weight_check import weight_files

Shape = tuple[int, ...]


class StoredTensors:
    """What is in a model directory's weight files.

    Raises:
        ValueError: There are no safetensors files.
    """

    def __init__(self, model_dir: Path) -> None:
        files = weight_files(model_dir)
        if not files:
            found = " and ".join(sorted(path.name for path in model_dir.glob("*.bin"))[:3]) or "no weights"
            raise ValueError(
                f"weights come in *.safetensors files, got {found} in {model_dir}; convert them: "
                "AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)"
            )
        self.directory = model_dir
        self._files = {path: safe_open(path, framework="pt") for path in files}
        self.paths = {name: path for path, file in self._files.items() for name in file.keys()}  # noqa: SIM118
        self.shapes: dict[str, Shape] = {name: tuple(self._slice(name).get_shape()) for name in self.paths}

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """[count, …] rows of a tensor in the file's dtype; only they are read."""
        rows: Tensor = self._slice(name)[first : first + count]
        return rows

    def _slice(self, name: str) -> Any:
        return self._files[self.paths[name]].get_slice(name)
