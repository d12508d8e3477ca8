"""The recipes of recipes/gpu fit what their names say, by `rloop plan`, and do not fit half of it."""

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.exits import Exit
from trainer.scratch_tokenizer import make_tokenizer

RECIPES = Path(__file__).parents[3] / "recipes"
DOCS = RECIPES.parent / "docs" / "gpu.md"
VOCABULARY, HEAD_DIM = 151_936, 128
SIZES = {
    "qwen3-0.6b": {"hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072}
    | {"num_attention_heads": 16, "num_key_value_heads": 8, "tie_word_embeddings": True},
    "qwen3-1.7b": {"hidden_size": 2048, "num_hidden_layers": 28, "intermediate_size": 6144}
    | {"num_attention_heads": 16, "num_key_value_heads": 8, "tie_word_embeddings": True},
    "qwen3-8b": {"hidden_size": 4096, "num_hidden_layers": 36, "intermediate_size": 12288}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False},
}
PARAMETERS = {"qwen3-0.6b": 596_049_920, "qwen3-1.7b": 1_720_574_976, "qwen3-8b": 8_190_735_360}
GPUS = {"qwen3-0.6b": 1, "qwen3-1.7b": 8, "qwen3-8b": 32}


def recipe_of(name: str) -> str:
    return f"{name}-{GPUS[name]}gpu{'s' if GPUS[name] > 1 else ''}"


def tensors(size: dict[str, int]) -> dict[str, list[int]]:
    """Names and shapes of a Qwen3 model's weights."""
    d, wide = size["hidden_size"], size["intermediate_size"]
    queries, keys = size["num_attention_heads"] * HEAD_DIM, size["num_key_value_heads"] * HEAD_DIM
    block = {
        "input_layernorm": [d],
        "post_attention_layernorm": [d],
        "self_attn.q_norm": [HEAD_DIM],
        "self_attn.k_norm": [HEAD_DIM],
        "self_attn.q_proj": [queries, d],
        "self_attn.k_proj": [keys, d],
        "self_attn.v_proj": [keys, d],
        "self_attn.o_proj": [d, queries],
        "mlp.gate_proj": [wide, d],
        "mlp.up_proj": [wide, d],
        "mlp.down_proj": [d, wide],
    }
    found = {"model.embed_tokens.weight": [VOCABULARY, d], "model.norm.weight": [d]}
    for layer in range(size["num_hidden_layers"]):
        found |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    return found if size["tie_word_embeddings"] else found | {"lm_head.weight": [VOCABULARY, d]}


@pytest.fixture
def model(tmp_path):
    """A model directory of real size on paper: its weights are a hole in a file."""

    def make(name: str) -> Path:
        directory, header, end = tmp_path / name, {}, 0
        make_tokenizer("bytes", 4096).save_pretrained(directory)
        facts = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": VOCABULARY}
        facts |= {"head_dim": HEAD_DIM, "max_position_embeddings": 40_960}
        (directory / "config.json").write_text(json.dumps(facts | SIZES[name]))
        for tensor, shape in tensors(SIZES[name]).items():
            begin, end = end, end + 2 * math.prod(shape)
            header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        assert end == 2 * PARAMETERS[name]
        text = json.dumps(header).encode()
        with (directory / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
        return directory

    return make


@pytest.fixture
def plan(tmp_path, model):
    def run(name: str, gpus: int, gpu_gib: int):
        each = min(gpus, 8)
        cluster = {
            "head_node_type": "head",
            "max_workers": gpus // each,
            "available_node_types": {
                "head": {"resources": {"CPU": 0}},
                "gpu": {"resources": {"CPU": 96, "GPU": each}, "max_workers": gpus // each},
            },
        }
        file = tmp_path / "cluster.yaml"
        file.write_text(json.dumps(cluster))
        overlays = ["gpu.yaml", f"gpu/{recipe_of(name)}.yaml"]
        recipe = [str(RECIPES / each) for each in ["gsm8k.yaml", *overlays]]
        inputs = ["data.path=train.jsonl", f"model.path={model(name)}"]
        options = ["--cluster", str(file), "--gpu-gib", str(gpu_gib)]
        return CliRunner().invoke(app, ["plan", *recipe, *inputs, *options])

    return run


def test_there_is_a_size_for_every_recipe():
    recipes = {path.stem for path in (RECIPES / "gpu").glob("*.yaml")}
    assert recipes == set(map(recipe_of, GPUS))


@pytest.mark.parametrize("name", SIZES)
def test_everybody_finds_room_on_the_gpus_of_the_name_and_nothing_is_wasted(plan, name):
    said = plan(name, GPUS[name], 80)
    assert said.exit_code == Exit.DONE, said.output
    assert "note:" not in said.output
    used = [line.split() for line in said.output.splitlines() if line.split()[:1] and "of" in line.split()]
    gpus = [row[row.index("of") - 1 : row.index("of") + 2] for row in used if row[0].startswith("gpu")]
    assert gpus == [[str(min(GPUS[name], 8)), "of", str(min(GPUS[name], 8))]] * -(-GPUS[name] // 8)
    (rank,) = [line.split() for line in said.output.splitlines() if line.split()[:2] == ["learner", "rank"]]
    (documented,) = [row.split("|") for row in DOCS.read_text().splitlines() if f"{recipe_of(name)}.yaml` |" in row]
    assert documented[-2].strip() == rank[2]


@pytest.mark.parametrize("name", [name for name, gpus in GPUS.items() if gpus > 1])
def test_half_as_many_gpus_are_too_few(plan, name):
    said = plan(name, GPUS[name] // 2, 80)
    assert "no room for" in str(said.exception)


@pytest.mark.parametrize("name", SIZES)
def test_gpus_of_half_the_memory_are_too_small(plan, name):
    said = plan(name, GPUS[name], 40)
    assert "takes about" in str(said.exception)
