"""Loading a model directory: what it costs, what it rounds, what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from families import make_family
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from trainer.config import TrainerConfig
from trainer.learner import LearnerRank
from trainer.loading import empty_policy
from trainer.rendezvous import free_port
from trainer.stored_names import Parts, parts_of
from trainer.stored_tensors import StoredTensors

EXPERT = "model.layers.0.mlp.experts.3"
NORM, STRANGER = "model.norm.weight", "model.layers.9.mlp.bias"


@pytest.fixture(scope="module")
def moe_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family("qwen3_moe", tmp_path_factory.mktemp("moe") / "model")


def names_in(model_dir: Path) -> Parts:
    policy = empty_policy(model_dir, "auto", "float32", torch.device("cpu"))
    return parts_of(policy.lm, StoredTensors(model_dir))


def test_no_rank_of_two_ever_holds_much_more_than_half_a_model(model_dir: Path, tmp_path: Path) -> None:
    wide = {"hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 4, "num_attention_heads": 24}
    large = make_family("llama", tmp_path / "large", **wide)
    size = (large / "model.safetensors").stat().st_size
    assert size > 100e6
    script, ports = str(Path(__file__).with_name("load_half.py")), [str(free_port()) for _ in range(2)]
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), *ports, str(model_dir), str(large)], stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    try:
        grown = [int(rank.communicate(timeout=120)[0]) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(0.5 < more / size < 0.65 for more in grown), grown


def test_master_weights_are_float32_whatever_the_files_hold(tmp_path: Path) -> None:
    model = make_family("llama", tmp_path / "model", dtype=torch.bfloat16)
    learner = LearnerRank(0, 1, model, TrainerConfig(compute_dtype="float32"))
    learner.connect("127.0.0.1", free_port(), 30)
    try:
        stored = load_file(model / "model.safetensors")
        assert {t.dtype for t in stored.values()} == {torch.bfloat16}
        for name, shard in learner.policy.shards().items():
            assert shard.dtype == torch.float32
            assert torch.equal(shard, stored[name].float())
        learner.export(str(tmp_path / "export"))
        exported = load_file(tmp_path / "export" / "model.safetensors")
        assert all(torch.equal(exported[name], tensor) for name, tensor in stored.items())
    finally:
        learner.close()


@pytest.mark.parametrize("family", ["gemma3_text", "olmo3", "qwen2_moe", "smollm3"])
def test_buffers_are_computed_as_transformers_does(family: str, tmp_path: Path) -> None:
    model_dir = make_family(family, tmp_path / "model")
    wanted = dict(AutoModelForCausalLM.from_pretrained(model_dir).named_buffers())
    got = dict(empty_policy(model_dir, "auto", "float32", torch.device("cpu")).lm.named_buffers())
    assert got.keys() == wanted.keys()
    for name, buffer in wanted.items():
        assert torch.equal(got[name], buffer), name


def test_experts_are_told_apart_by_number_and_gate_comes_before_up(moe_dir: Path) -> None:
    stored = load_file(moe_dir / "model.safetensors")
    loaded = dict(AutoModelForCausalLM.from_pretrained(moe_dir).named_parameters())
    parts = names_in(moe_dir)
    gate_up = "model.layers.1.mlp.experts.gate_up_proj"
    assert parts[gate_up][:3] == tuple(
        f"model.layers.1.mlp.experts.{name}.weight" for name in ("0.gate_proj", "0.up_proj", "1.gate_proj")
    )
    for name, pieces in parts.items():
        assert torch.equal(loaded[name].flatten(), torch.cat([stored[piece].flatten() for piece in pieces])), name


def test_more_than_ten_experts_keep_their_order(tmp_path: Path) -> None:
    parts = names_in(make_family("qwen3_moe", tmp_path / "model", num_experts=12))
    down = parts["model.layers.0.mlp.experts.down_proj"]
    assert down == tuple(f"model.layers.0.mlp.experts.{i}.down_proj.weight" for i in range(12))


EXPERT = "model.layers.0.mlp.experts.3"


NORM, STRANGER = "model.norm.weight", "model.layers.9.mlp.bias"


@pytest.mark.parametrize(
    ("absent", "added", "complaint"),
    [
        (NORM, None, r"model: no file holds model\.norm\.weight of Qwen3MoeForCausalLM"),
        (f"{EXPERT}.up_proj.weight", None, r"same tensors of each expert, got 5 of mlp\S+gate_proj\S+ and 4 of "),
        (
            f"{EXPERT}.down_proj.weight",
            None,
            r"down_proj \[5, 64, 32\] cannot be made of 4 tensors like \S+ \[64, 32\]",
        ),
        (None, STRANGER, r"model\.safetensors: \S+ has no place for model\.layers\.9\.mlp\.bias"),
        (None, f"{EXPERT}.down_proj.weight", r"of 5 tensors like \S+experts\.3\.down_proj\.weight \[2\]"),
        (None, NORM, r"model\.safetensors: model\.norm\.weight \[64\] cannot be made of 1 tensors like \S+ \[2\]"),
    ],
)
def test_files_that_do_not_fit_the_model_are_refused_by_name(
    absent: str | None, added: str | None, complaint: str, moe_dir: Path, tmp_path: Path
) -> None:
    tensors = {k: v for k, v in load_file(moe_dir / "model.safetensors").items() if k != absent}
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_bytes((moe_dir / "config.json").read_bytes())
    save_file(tensors | ({added: torch.zeros(2)} if added else {}), model / "model.safetensors")
    with pytest.raises(ValueError, match=complaint):
        names_in(model)


def test_what_older_files_hold_beside_the_weights_is_passed_over(moe_dir: Path, tmp_path: Path) -> None:
    tensors = load_file(moe_dir / "model.safetensors") | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    (tmp_path / "config.json").write_bytes((moe_dir / "config.json").read_bytes())
    save_file(tensors, tmp_path / "model.safetensors")
    assert names_in(tmp_path) == names_in(moe_dir)


def test_a_head_that_is_tied_and_stored_again_is_the_embedding(tmp_path: Path) -> None:
    model = make_family("qwen3", tmp_path / "model")
    names = names_in(model)
    tensors = load_file(model / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, model / "model.safetensors")
    assert names_in(model) == names
    assert "lm_head.weight" not in names


def test_bin_files_are_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"safetensors files, got pytorch_model\.bin in .*; convert them: AutoModel"):
        StoredTensors(tmp_path)


def test_models_that_need_more_than_merged_experts_or_have_other_state_are_refused(tmp_path: Path) -> None:
    corrected = make_family("glm4_moe", tmp_path / "glm", first_k_dense_replace=1, n_routed_experts=4)
    with pytest.raises(ValueError, match=r"Glm4MoeForCausalLM also keeps model\.layers\.1\S+e_score_correction_bias"):
        names_in(corrected)
    cut = make_family("hrm_text", tmp_path / "hrm")
    with pytest.raises(
        ValueError, match=r"self_attn\.gate_proj\.weight is made of attn\.gqkv_proj\.weight by Chunk; take"
    ):
        names_in(cut)


@pytest.mark.parametrize(
    ("family", "complaint"),
    [
        ("gemma2", r"Gemma2ForCausalLM changes its logits afterwards \(final_logit_softcapping=30\.0\)"),
        ("bloom", r"attention interface, which BloomForCausalLM does not use"),
        ("mamba2", r"Mamba2ForCausalLM carries state from token to token"),
    ],
)
def test_models_whose_log_probs_would_be_wrong_are_refused(family: str, complaint: str, tmp_path: Path) -> None:
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=complaint):
        empty_policy(tmp_path, "sdpa", "float32", torch.device("cpu"))


def test_fused_kernels_are_refused_where_there_is_no_gpu(model_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"fused_kernels cannot run here: they need a CUDA device, got cpu; set it to"):
        empty_policy(model_dir, "auto", "float32", torch.device("cpu"), fused_kernels=True)
