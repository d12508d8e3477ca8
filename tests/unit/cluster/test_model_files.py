import json
import shutil
from math import prod
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from cluster.model_files import ModelFacts, read_model, scratch_facts
from trainer.config import ScratchConfig
from trainer.memory import Shape

SHAPES = {"model.embed_tokens.weight": [6, 4], "model.layers.0.mlp.up_proj.weight": [8, 4]}
CONFIG = {
    "architectures": ["TinyForCausalLM"],
    "model_type": "llama",
    "vocab_size": 6,
    "hidden_size": 4,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
}


def write_safetensors(path: Path, shapes: dict[str, list[int]]) -> None:
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(offset))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(directory / "model.safetensors", SHAPES)
    Tokenizer(WordLevel({c: i for i, c in enumerate("abcdef")}, unk_token="a")).save(str(directory / "tokenizer.json"))
    return directory


def test_facts_come_from_the_headers_without_loading_the_model(model: Path) -> None:
    facts, problems = read_model(model)
    assert problems == []
    assert facts is not None
    assert facts.name == "TinyForCausalLM"
    assert facts.parameters == 6 * 4 + 8 * 4
    assert facts.kv_values_per_token == 2 * 3 * 1 * 2
    assert facts.max_positions == 32


def refused(model: Path) -> str:
    facts, problems = read_model(model)
    assert facts is None
    return "\n".join(problems)


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert f"{tmp_path / 'no'}: does not exist" in refused(tmp_path / "no")


def test_every_missing_file_is_named(tmp_path: Path) -> None:
    text = refused(tmp_path)
    assert "config.json: missing" in text
    assert "no *.safetensors weights" in text
    assert "no tokenizer (tokenizer.json or tokenizer.model)" in text


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused(model: Path) -> None:
    Tokenizer(WordLevel({c: i for i, c in enumerate("abcdefgh")}, unk_token="a")).save(str(model / "tokenizer.json"))
    assert "the tokenizer gives ids up to 7 and the model has 6 embedding rows" in refused(model)


def test_an_embedding_that_disagrees_with_the_config_is_refused(model: Path) -> None:
    (model / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": 9}))
    assert "the embedding has 6 rows and config.json says vocab_size=9" in refused(model)


def test_a_broken_download_is_refused(model: Path) -> None:
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5])
    assert f"cut short or padded: {len(whole) - 5} bytes, its header says {len(whole)}" in refused(model)
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "a Git LFS pointer or a broken download" in refused(model)
    (model / "config.json").write_text("{")
    assert "config.json: not valid JSON" in refused(model)


def test_a_missing_shard_is_named(model: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names model-2.safetensors, which is missing" in refused(model)


def test_the_size_of_a_scratch_model_is_that_of_the_model_made(tmp_path: Path) -> None:
    from trainer.scratch import make_model

    scratch = ScratchConfig(
        hidden_size=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=32, intermediate_size=24
    )
    directory = make_model(scratch, tmp_path / "m", context_length=64, seed=0)
    made, problems = read_model(directory)
    assert problems == []
    assert made is not None
    reckoned = scratch_facts(scratch, vocabulary=21, context_length=64)
    assert (made.parameters, made.kv_values_per_token, made.max_positions) == (
        reckoned.parameters,
        reckoned.kv_values_per_token,
        reckoned.max_positions,
    )
    shutil.rmtree(directory)


def test_a_model_that_is_no_llama_like_decoder_is_refused_before_anything_starts(model: Path) -> None:
    write_safetensors(model / "model.safetensors", {"wte.weight": [6, 4], "h.0.attn.c_attn.weight": [4, 12]})
    assert "weights named model.layers.*" in refused(model)


def test_a_model_that_cannot_be_trained_packed_is_refused_from_its_config_alone(model: Path) -> None:
    (model / "config.json").write_text(json.dumps(CONFIG | {"model_type": "jamba", "mamba_d_conv": 4}))
    assert "this model has other layers (mamba_d_conv)" in refused(model)


def test_a_model_that_is_only_served_need_not_be_one_that_can_be_trained(model: Path) -> None:
    gpt2 = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 6}
    sizes = {"n_embd": 64, "n_head": 2, "n_layer": 3, "n_positions": 80, "mamba_d_conv": 4}
    (model / "config.json").write_text(json.dumps(gpt2 | sizes))
    write_safetensors(model / "model.safetensors", {"wte.weight": [6, 64], "h.0.attn.c_attn.weight": [64, 192]})
    assert "weights named model.layers.*" in refused(model)
    facts, problems = read_model(model, trained=False)
    assert problems == []
    assert facts == ModelFacts(
        "GPT2LMHeadModel", Shape(6 * 64 + 64 * 192, 3, 64, 6, tied=True), 2 * 3 * 64, max_positions=80, head_dim=32
    )
    (model / "tokenizer.json").unlink()
    assert "no tokenizer" in read_model(model, trained=False)[1][0]
