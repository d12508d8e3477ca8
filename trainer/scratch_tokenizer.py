"""Tokenizers made from nothing, for models made from nothing. Does without torch, which takes seconds to import."""

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

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
