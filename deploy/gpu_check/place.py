"""What all parts share: the device, a folder, and a model made from nothing whose answers differ between tokens."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.config import ScratchConfig

CONTEXT_LENGTH = 512
SHAPE = ScratchConfig(
    tokenizer="bytes",
    hidden_size=512,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=128,  # of every Qwen3: kernels are chosen by it
    intermediate_size=1536,
)
_SHARPNESS = 4.0
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.3}
"""Largest difference of a log-prob, in nats: `actors.probe_tolerance` by default, and in recipes/gpu.yaml."""


class Skipped(Exception):
    """The part cannot run here; says why."""


class Wrong(Exception):
    """The part ran, and this is wrong."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part runs."""

    device: Literal["cuda", "cpu"]
    folder: Path

    @property
    def dtype(self) -> Literal["float32", "bfloat16"]:
        """What runs compute in there."""
        return "bfloat16" if self.device == "cuda" else "float32"

    def gpus(self) -> int:
        """How many there are; on CPUs none are looked at.

        Raises:
            Skipped: There should be some, and there are none. Everything would else run on the CPU and pass.
        """
        import torch

        if self.device == "cpu":
            return 0
        if not torch.cuda.is_available():
            raise Skipped("torch sees no GPU: see `device`")
        return int(torch.cuda.device_count())

    def model(self) -> Path:
        """The model directory, made when it is first asked for.

        A model as it comes from the initialiser finds all tokens about equally likely, whatever its attention does: no
        comparison of log-probs would find anything. Larger embeddings make it opinionated.
        """
        from safetensors.torch import load_file, save_file

        from trainer.scratch import make_model

        directory = self.folder / "model"
        if not directory.exists():
            plain = make_model(SHAPE, self.folder / "plain", CONTEXT_LENGTH, seed=0)
            draft = shutil.copytree(plain, self.folder / "draft", dirs_exist_ok=True)  # a part may have died in here
            weights = load_file(draft / "model.safetensors")
            weights["model.embed_tokens.weight"] *= _SHARPNESS
            save_file(weights, draft / "model.safetensors", metadata={"format": "pt"})
            draft.rename(directory)
        return directory
