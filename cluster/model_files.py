"""Reads what a Hugging Face model directory says about itself, without loading it: sizes, shapes, tokenizer.

Uses json and tokenizers only; torch and transformers are for the processes that run the model.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.trainable import trial, untrainable
from trainer.config import ScratchConfig
from trainer.memory import Shape

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
_OLDER_NAMES = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "max_position_embeddings": "n_positions",
}
"""What GPT-2 and its contemporaries call the same numbers."""
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Numbers of a model that the preflight reckons with."""

    name: str
    """Architecture, for people."""
    shape: Shape
    kv_values_per_token: int
    """Keys and values that one token adds to the cache, over all layers."""
    max_positions: int | None
    """Longest sequence the model was made for; None when it does not say."""
    head_dim: int
    """Width of an attention head."""

    @property
    def parameters(self) -> int:
        """How many there are."""
        return self.shape.parameters


def scratch_facts(scratch: ScratchConfig, vocabulary: int, context_length: int) -> ModelFacts:
    """The model that `trainer.scratch` will make (Qwen3, tied embeddings)."""
    d, heads, kv = scratch.hidden_size, scratch.num_heads * scratch.head_dim, scratch.num_kv_heads * scratch.head_dim
    layer = 2 * d * heads + 2 * d * kv + 3 * d * scratch.intermediate_size + 2 * d + 2 * scratch.head_dim
    parameters = vocabulary * d + scratch.num_layers * layer + d
    shape = Shape(parameters, scratch.num_layers, d, vocabulary, tied=True)
    return ModelFacts("Qwen3 from scratch", shape, 2 * scratch.num_layers * kv, context_length, scratch.head_dim)


def read_model(path: Path, trained: bool = True) -> tuple[ModelFacts | None, list[str]]:
    """Facts of a model directory, and a sentence per thing that keeps it from being used, `trained` or only served."""
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        return None, [f"{path}: {what}; name a model directory with config.json, weights and tokenizer"]
    config, problems = _config(path)
    shapes, more = _weights(path)
    problems += more
    problems += _tokenizer(path, config, shapes)
    problems += untrainable(path, config) if config and trained else ()
    if trained and shapes and not any(name.startswith("model.layers.0.") for name in shapes):
        problems.append(
            f"{path}: RLoop trains decoder models with weights named model.layers.*, this one has {min(shapes)}; take "
            "a causal language model of the Llama, Qwen, Mistral or a similar family"
        )
    if trained and config is not None and not problems:
        problems += trial(path, config)
    if problems or config is None:
        return None, problems
    text = config.get("text_config", config)
    text |= {name: text[older] for name, older in _OLDER_NAMES.items() if older in text}
    heads = text.get("num_attention_heads", 1)
    head_dim = text.get("head_dim") or text.get("hidden_size", 0) // heads
    kv_heads = text.get("num_key_value_heads") or heads
    return ModelFacts(
        name=(config.get("architectures") or [config.get("model_type", "unknown")])[0],
        shape=Shape(
            parameters=sum(math.prod(shape) for shape in shapes.values()),
            layers=text.get("num_hidden_layers", 0),
            hidden=text.get("hidden_size", 0),
            vocabulary=text.get("vocab_size", 0),
            tied=not any(name.endswith("lm_head.weight") for name in shapes),
        ),
        kv_values_per_token=2 * text.get("num_hidden_layers", 0) * kv_heads * head_dim,
        max_positions=text.get("max_position_embeddings"),
        head_dim=head_dim,
    ), []


def _config(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    file = path / "config.json"
    if not file.is_file():
        return None, [f"{file}: missing; a model directory holds config.json (copy the whole snapshot)"]
    try:
        return json.loads(file.read_text(encoding="utf-8")), []
    except ValueError as error:
        return None, [f"{file}: not valid JSON ({error}); copy it again"]


def _weights(path: Path) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Shapes by tensor name, from the headers of the safetensors files."""
    files = sorted(path.glob("*.safetensors"))
    if not files:
        return {}, [
            f"{path}: no *.safetensors weights; convert what is there: "
            "AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)"
        ]
    shapes: dict[str, tuple[int, ...]] = {}
    problems = []
    for file in files:
        header, problem = _header(file)
        problems += [problem] if problem else []
        shapes.update({name: tuple(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"})
    index = path / "model.safetensors.index.json"
    if index.is_file():
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        for absent in sorted(named - {file.name for file in files}):
            problems.append(f"{index}: names {absent}, which is missing; copy the whole snapshot")
    return shapes, problems


def _header(file: Path) -> tuple[dict[str, Any], str]:
    """The JSON header of a safetensors file (8 bytes of length, then JSON, then data), or what is wrong with it."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        raw = stream.read(length) if 0 < length <= size - 8 else b""
    try:
        header = json.loads(raw)
    except ValueError:
        return (
            {},
            f"{file}: not a safetensors file ({size} bytes); a Git LFS pointer or a broken download: fetch it again",
        )
    end = 8 + length + max((t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"), default=0)
    if end != size:
        return header, f"{file}: cut short or padded: {size} bytes, its header says {end}; fetch it again"
    return header, ""


def _tokenizer(path: Path, config: dict[str, Any] | None, shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """A tokenizer must be there, and every id it can give must have a row in the embedding."""
    if not any((path / name).is_file() for name in _TOKENIZER_FILES):
        return [f"{path}: no tokenizer ({' or '.join(_TOKENIZER_FILES[:2])}); save one with tokenizer.save_pretrained"]
    problems = []
    vocabulary = (config or {}).get("text_config", config or {}).get("vocab_size")
    rows = next((shape[0] for name, shape in shapes.items() if name.endswith(_EMBEDDINGS)), None)
    if vocabulary is not None and rows is not None and rows != vocabulary:
        problems.append(
            f"{path}: the embedding has {rows} rows and config.json says vocab_size={vocabulary}; "
            "the two must agree: take both from the same model"
        )
    limit = rows if rows is not None else vocabulary
    if limit is None or not (path / "tokenizer.json").is_file():
        return problems
    from tokenizers import Tokenizer

    try:
        largest = max(
            Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab(with_added_tokens=True).values(), default=-1
        )
    except Exception as error:  # tokenizers raises bare Exception for whatever it cannot read
        return [*problems, f"{path / 'tokenizer.json'}: cannot be read ({error}); save the tokenizer again"]
    if largest >= limit:
        problems.append(
            f"{path}: the tokenizer gives ids up to {largest} and the model has {limit} embedding rows; "
            "the two do not belong together: take both from the same model, or resize the embedding"
        )
    return problems
