"""Tiny Hugging Face models made from nothing: a seeded random Qwen3 with its tokenizer, for demos and tests.

Nothing is downloaded. Any other model comes as a directory that the user already has.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from trainer.config import ScratchConfig
from trainer.directories import atomic_directory
from trainer.scratch_tokenizer import make_tokenizer


def make_model(scratch: ScratchConfig, directory: Path, context_length: int, seed: int) -> Path:
    """Write a loadable model directory and return it: config, safetensors, tokenizer, generation config.

    The same arguments give the same weights, bit for bit. The directory appears whole or not at all; one that is
    already there is returned as it is.
    """
    if directory.exists():
        return directory
    tokenizer = make_tokenizer(scratch.tokenizer, context_length)
    specials = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=scratch.hidden_size,
        intermediate_size=scratch.intermediate_size,
        num_hidden_layers=scratch.num_layers,
        num_attention_heads=scratch.num_heads,
        num_key_value_heads=scratch.num_kv_heads,
        head_dim=scratch.head_dim,
        max_position_embeddings=context_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        dtype="float32",
        **specials,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}  # the tied head is not listed
    config.architectures = [type(model).__name__]
    with atomic_directory(directory) as draft:
        save_file(weights, draft / "model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(draft)
        GenerationConfig(do_sample=True, **specials).save_pretrained(draft)
        tokenizer.save_pretrained(draft)
    return directory
