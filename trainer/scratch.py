"""Tiny Hugging Face models made from nothing: a seeded random Qwen3 and a tokenizer, for demos and tests.

Nothing is downloaded. Any other model comes as a directory that the user already has.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from trainer.config import ScratchConfig
from trainer.directories import atomic_directory

COUNTDOWN_CHARACTERS = "0123456789,+-*/=;>:"
PAD, EOS, USER, ASSISTANT = "<pad>", "<eos>", "<|user|>", "<|assistant|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{{% if message['role'] == 'assistant' %}}{ASSISTANT}{{{{ message['content'] }}}}{EOS}"
    f"{{% else %}}{USER}{{{{ message['content'] }}}}{{% endif %}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
)
"""A turn is its marker and its text; an assistant's turn ends with the end-of-sequence token."""


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


def make_tokenizer(kind: str, context_length: int) -> PreTrainedTokenizerFast:
    """The `countdown` tokenizer (one token per character) or the `bytes` one (one token per UTF-8 byte)."""
    if kind == "countdown":
        tokenizer, specials, template = _characters(COUNTDOWN_CHARACTERS), [PAD, EOS], None
    else:
        tokenizer, specials, template = _bytes(), [PAD, EOS, USER, ASSISTANT], CHAT_TEMPLATE
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=specials[2:],
        model_max_length=context_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = template
    return fast


def _characters(characters: str) -> Tokenizer:
    """One token per character; any other character makes encoding raise, because there is no unknown token."""
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _bytes() -> Tokenizer:
    """One token per byte of UTF-8: the byte-level alphabet, and no merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, USER, ASSISTANT, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
