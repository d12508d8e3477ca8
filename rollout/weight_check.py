"""Refuses staged weights that are not exactly what an engine holds, before the engine is touched.

Only names, dtypes, shapes and the file's size: whether the *values* arrived, checksums and attestation show.
"""

import json
import os
from pathlib import Path

from safetensors import safe_open

from rollout.weights import WeightSlot

Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""(dtype, shape) by name."""


def checkpoint_tensors(model_dir: Path, dtype: str) -> Tensors:
    """What an engine that loads this checkpoint in `dtype` takes weights for, from the files' headers.

    A tied output head is the embedding and travels once, although some checkpoints store it again.

    Raises:
        ValueError: There is no checkpoint in the folder.
    """
    tensors: Tensors = {}
    for path in weight_files(model_dir):
        with safe_open(path, framework="numpy") as file:
            tensors |= {
                name: (dtype, tuple(file.get_slice(name).get_shape()))
                for name in file.keys()  # noqa: SIM118
                if not name.endswith("rotary_emb.inv_freq")  # older files store what follows from config.json
            }
    if not tensors:
        raise ValueError(f"a model folder holds *.safetensors, got none in {model_dir}; export the model there first")
    if _has_tied_head(model_dir):
        tensors.pop("lm_head.weight", None)
    return tensors


def weight_files(model_dir: Path) -> list[Path]:
    """The files that make up a checkpoint: what its index names, or model.safetensors; never strays of other tools."""
    index = model_dir / "model.safetensors.index.json"
    if index.exists():
        return sorted({model_dir / name for name in json.loads(index.read_text())["weight_map"].values()})
    single = model_dir / "model.safetensors"
    return [single] if single.exists() else sorted(model_dir.glob("*.safetensors"))


def _has_tied_head(model_dir: Path) -> bool:
    config = json.loads((model_dir / "config.json").read_text())
    return bool(config.get("tie_word_embeddings", config.get("text_config", {}).get("tie_word_embeddings", False)))


def check_tensors(slot: WeightSlot, expected: Tensors) -> None:
    """Raise `ValueError`, naming tensor, got and expected, unless the slot holds exactly `expected`."""
    got = {piece.name: (piece.dtype, piece.shape) for piece in slot.layout.pieces}
    for name in sorted(expected.keys() | got.keys()):
        if got.get(name) != expected.get(name):
            raise ValueError(
                f"weights for version {slot.version} must be the engine's own tensors: {name} was "
                f"{_describe(got.get(name))}, expected {_describe(expected.get(name))}; "
                "stage exactly what the checkpoint of model_dir holds, in the dtype of rollout.engine.dtype"
            )


def check_file(slot: WeightSlot) -> None:
    """Raise `ValueError` unless the slot's file is there and as large as its layout says."""
    if not os.path.exists(slot.path) or os.stat(slot.path).st_size < slot.layout.nbytes:
        raise ValueError(
            f"the file of version {slot.version} must exist and hold {slot.layout.nbytes} bytes, got {slot.path}; "
            "keep it open until every engine has loaded it, and set actors.weight_transport=tcp where an engine is on "
            "another host"
        )


def _describe(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return "absent" if tensor is None else f"{tensor[0]}{list(tensor[1])}"
