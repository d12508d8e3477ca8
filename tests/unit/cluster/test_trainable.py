"""What config.json alone says about a model: settings as published model cards have them."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.trainable import trial, untrainable

PLAIN = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 4}


def complaints(**changes: Any) -> list[str]:
    return list(untrainable(Path("/models/m"), PLAIN | changes))


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"architectures": ["GraniteMoeHybridForCausalLM"], "layer_types": ["attention"] * 2, "mamba_d_conv": 4},
        {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "auto_map": {"AutoModelForCausalLM": "m.Phi3"}},
        {"architectures": ["Gemma3ForCausalLM"], "final_logit_softcapping": None},
        {"logits_scaling": 1.0},
        {"model_type": "granite", "logits_scaling": 8.0},
        {"model_type": "cohere2", "logit_scale": 0.0625},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
    ],
)
def test_causal_models_with_attention_in_every_layer_pass(config: dict[str, Any]) -> None:
    assert complaints(**config) == []


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "this is T5ForConditional"),
        ({"architectures": ["Qwen2_5_VLForConditionalGeneration"]}, "without encoder or image and audio towers"),
        ({"architectures": ["MBartForCausalLM"], "is_encoder_decoder": True}, "this is MBartForCausalLM"),
        ({"architectures": None}, "this is a model of no stated architecture"),
        ({"model_type": "own_kind", "auto_map": {"AutoModelForCausalLM": "modeling.Own"}}, "needs Python code of its"),
        ({"layer_types": ["linear_attention", "full_attention"]}, r"has other layers (layer_types: linear_attention)"),
        ({"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}, "(layer_types: conv)"),
        ({"model_type": "qwen3_next", "linear_num_key_heads": 16}, "(linear_num_key_heads)"),
        ({"model_type": "falcon_mamba", "state_size": 16}, "(state_size)"),
        ({"model_type": "jamba", "mamba_d_conv": 4}, "(mamba_d_conv)"),
        ({"model_type": "recurrent_gemma", "block_types": ["recurrent", "attention"]}, "(block_types: recurrent)"),
        ({"model_type": "rwkv"}, "(rwkv)"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantized weights cannot be trained"),
        (
            {"model_type": "hyperclovax", "logits_scaling": 0.125},
            "changes its logits afterwards (logits_scaling=0.125)",
        ),
        ({"rope_scaling": {"type": "longrope"}}, "(rope_type=longrope) depends on the longest position"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "(rope_type=dynamic) depends on"),
        ({"final_logit_softcapping": 30.0}, "changes its logits afterwards (final_logit_softcapping=30.0)"),
    ],
)
def test_each_other_kind_is_refused_with_its_reason(config: dict[str, Any], complaint: str) -> None:
    (sentence,) = complaints(**config)
    assert sentence.startswith("/models/m: ")
    assert complaint in sentence
    assert "; take " in sentence


def test_an_architecture_without_tests_is_built_once_before_anything_starts(tmp_path):
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    config = {"architectures": ["PhiForCausalLM"], "model_type": "phi", "vocab_size": 64, **tiny}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert list(untrainable(tmp_path, config)) == []
    [sentence] = trial(tmp_path, config)
    assert sentence.endswith("the output head must be a plain matrix, PhiForCausalLM adds a bias; use another model")


def test_an_architecture_with_tests_is_not_built(tmp_path):
    assert list(trial(tmp_path / "nowhere", {"model_type": "qwen3"})) == []
