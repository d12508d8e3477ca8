import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from rollout.memory_file import MemoryFile
from rollout.weight_check import check_tensors, checkpoint_tensors
from rollout.weights import WeightLayout, WeightSlot

EMBEDDING = ("model.embed_tokens.weight", (8, 4))


def write(directory: Path, file: str, *tensors: tuple[str, tuple[int, ...]]) -> None:
    save_file({name: np.zeros(shape, np.float32) for name, shape in tensors}, directory / file)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    return tmp_path


def test_a_tied_head_that_a_checkpoint_stores_again_is_not_asked_of_the_learner(model: Path) -> None:
    write(model, "model.safetensors", EMBEDDING, ("lm_head.weight", (8, 4)))
    assert checkpoint_tensors(model, "bfloat16") == {"model.embed_tokens.weight": ("bfloat16", (8, 4))}


def test_an_untied_head_is(model: Path) -> None:
    (model / "config.json").write_text(json.dumps({"tie_word_embeddings": False}))
    write(model, "model.safetensors", EMBEDDING, ("lm_head.weight", (8, 4)))
    assert set(checkpoint_tensors(model, "float32")) == {"model.embed_tokens.weight", "lm_head.weight"}


def test_files_that_the_index_does_not_name_are_strays(model: Path) -> None:
    write(model, "model-00001-of-00001.safetensors", EMBEDDING)
    write(model, "consolidated.safetensors", ("tok_embeddings.weight", (8, 4)))
    index = {"weight_map": {"model.embed_tokens.weight": "model-00001-of-00001.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert set(checkpoint_tensors(model, "float32")) == {"model.embed_tokens.weight"}


def test_a_slot_with_another_shape_is_refused_by_name_with_both_shapes(model: Path) -> None:
    write(model, "model.safetensors", EMBEDDING)
    layout = WeightLayout.of([("model.embed_tokens.weight", "float32", (8, 5))])
    file = MemoryFile("test", layout.nbytes)
    with pytest.raises(ValueError, match=r"embed_tokens.weight was float32\[8, 5\], expected float32\[8, 4\]"):
        check_tensors(WeightSlot(file.path, layout, 3), checkpoint_tensors(model, "float32"))
    file.close()
