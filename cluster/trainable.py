"""Which models RLoop can train, as far as config.json tells: causal language models that attend to what is packed.

The learner lays many answers end to end and lets attention keep them apart. A state that is carried from token to token
would leak from one to the next; an encoder has no place in it; code that comes with the weights is not run.
"""

import importlib.util
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.packable import REFUSED, hindrances

logger = logging.getLogger(__name__)

_CAUSAL = ("ForCausalLM", "LMHeadModel")  # how transformers names them
_LAYER_KINDS = ("layer_types", "layers_block_type", "block_types")
_ATTENTION = ("full_attention", "sliding_attention", "attention")
_STATE = (
    "mamba_",
    "ssm_",
    "lru_",
    "state_size",
    "conv_kernel",
    "conv_L_cache",
    "linear_conv",
    "linear_attn",
    "linear_num",
)
"""What settings of state-space, convolution and linear-attention layers begin with."""
_TESTED = ("qwen3", "llama", "granite", "qwen3_moe", "mixtral")
_TRIAL_S = 120.0
_RECURRENT = ("rwkv", "xlstm")  # whose settings do not tell


def untrainable(path: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """A sentence per reason why this model cannot be trained."""
    kind, name = config.get("model_type", ""), (config.get("architectures") or ["a model of no stated architecture"])[0]
    if config.get("is_encoder_decoder") or not name.endswith(_CAUSAL):
        yield (
            f"{path}: RLoop trains causal language models (…ForCausalLM), this is {name}; "
            "take a decoder for text, without encoder or image and audio towers"
        )
    if "AutoModelForCausalLM" in config.get("auto_map", {}) and not _is_built_in(kind):
        yield (
            f"{path}: the model needs Python code of its own (auto_map in config.json), which RLoop does not run; "
            "take a model whose architecture transformers and vLLM have built in"
        )
    if state := _state(kind, config):
        yield (
            f"{path}: RLoop packs sequences, and only full or sliding attention keeps them apart; this model has other "
            f"layers ({state}); take a model with attention in every layer"
        )
    if "quantization_config" in config:
        yield f"{path}: quantized weights cannot be trained; take the unquantized model"
    for sentence in hindrances(name, kind, config):
        yield f"{path}: {sentence}"


def trial(path: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """The same of an architecture that RLoop has no tests of, from a process that builds it without its weights."""
    if config.get("model_type", "") in _TESTED:
        return
    logger.info("%s: an architecture that RLoop has no tests of is built once, without weights", path)
    command = [sys.executable, "-m", "trainer.trial_build", str(path)]
    try:
        built = subprocess.run(command, capture_output=True, text=True, timeout=_TRIAL_S)
    except subprocess.TimeoutExpired:
        return  # a machine this slow is no reason; the learner says the same later
    if built.returncode == REFUSED:
        *_, reason = ["no reason was given", *built.stdout.strip().splitlines()]
        yield f"{path}: {reason}"


def _state(kind: str, config: Mapping[str, Any]) -> str:
    """What says that layers are recurrent, or nothing."""
    for setting in _LAYER_KINDS:
        if layers := config.get(setting):
            odd = sorted(set(layers) - set(_ATTENTION))
            return f"{setting}: {', '.join(odd)}" if odd else ""
    if kind in _RECURRENT:
        return kind
    return next((setting for setting in config if setting.startswith(_STATE)), "")


def _is_built_in(kind: str) -> bool:
    """Whether transformers has this model type itself; found without importing it."""
    spec = importlib.util.find_spec("transformers")
    places = spec.submodule_search_locations if spec else None
    return bool(kind) and any((Path(place) / "models" / kind.replace("-", "_")).is_dir() for place in places or ())
