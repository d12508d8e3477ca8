import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from trainer.config import ScratchConfig
from trainer.scratch import make_model
from trainer.scratch_tokenizer import COUNTDOWN_CHARACTERS, make_tokenizer

COUNTDOWN, BYTES = make_tokenizer("countdown", 64), make_tokenizer("bytes", 64)


@given(st.text(COUNTDOWN_CHARACTERS, max_size=60))
def test_countdown_text_round_trips_one_token_per_character(text: str) -> None:
    ids = COUNTDOWN.encode(text)
    assert len(ids) == len(text)
    assert COUNTDOWN.decode(ids) == text


def has_no_marker(text: str) -> bool:
    return not any(marker in text for marker in BYTES.all_special_tokens)


@given(st.text(st.characters(codec="utf-8"), max_size=60).filter(has_no_marker))
def test_any_utf8_round_trips_one_token_per_byte(text: str) -> None:
    ids = BYTES.encode(text)
    assert len(ids) == len(text.encode())
    assert BYTES.decode(ids) == text


def test_a_character_outside_the_alphabet_is_refused() -> None:
    with pytest.raises(Exception, match="UNK"):
        COUNTDOWN.encode("3,7>x:")


def test_special_tokens_vanish_when_skipped() -> None:
    assert COUNTDOWN.decode([*COUNTDOWN.encode("3+4=7;"), COUNTDOWN.eos_token_id], skip_special_tokens=True) == "3+4=7;"


def test_chat_template_ends_with_the_assistant_marker() -> None:
    chat = [{"role": "user", "content": "hé"}]
    assert BYTES.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == "<|user|>hé<|assistant|>"
    chat.append({"role": "assistant", "content": "ho"})
    assert BYTES.apply_chat_template(chat, tokenize=False) == "<|user|>hé<|assistant|>ho<eos>"


@pytest.mark.parametrize(("kind", "vocabulary"), [("countdown", 21), ("bytes", 260)])
def test_a_directory_loads_and_is_the_same_for_the_same_seed(tmp_path: Path, kind: str, vocabulary: int) -> None:
    scratch = ScratchConfig(tokenizer=kind, hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=32)
    first, again, other = (make_model(scratch, tmp_path / n, 32, s) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    digests = [hashlib.sha256((d / "model.safetensors").read_bytes()).digest() for d in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]

    model, tokenizer = AutoModelForCausalLM.from_pretrained(first), AutoTokenizer.from_pretrained(first)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert model.config.vocab_size == len(tokenizer) == vocabulary
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 1


def test_the_demo_model_has_the_size_it_is_said_to_have(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_model(ScratchConfig(), tmp_path / "m", 128, 0))
    assert sum(p.numel() for p in model.parameters()) == 445_504


def test_a_directory_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    make_model(ScratchConfig(), tmp_path / "m", 128, 0)
    assert list(tmp_path.rglob("*")) == [tmp_path / "m"]
