from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer.attention import PACKED_SDPA
from trainer.batching import whole_sequences
from trainer.policy import Policy

LENGTHS = (5, 17, 3, 30, 29, 16, 2, 23)


@pytest.fixture(scope="module")
def policy(model_dir: Path) -> Policy:
    return Policy(AutoModelForCausalLM.from_pretrained(model_dir, attn_implementation=PACKED_SDPA).eval())


@pytest.fixture(scope="module")
def sequences() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(2, 21, length).astype(np.int32) for length in LENGTHS]


def one_by_one(policy: Policy, sequences: list[np.ndarray], temperature: float) -> torch.Tensor:
    """Log-probs [n] of transformers' own model with its eager attention, a sequence at a time."""
    lm = policy.lm
    packed, found = lm.config._attn_implementation, []
    try:
        lm.set_attn_implementation("eager")
        for sequence in sequences:
            ids = torch.from_numpy(sequence.astype(np.int64))[None]
            logits = lm(input_ids=ids).logits[0, :-1] / temperature
            found.append(logits.log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1))
    finally:
        lm.set_attn_implementation(packed)
    return torch.cat(found)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_packed_and_one_by_one_agree_in_log_probs_and_gradients(
    policy: Policy, sequences: list[np.ndarray], temperature: float
) -> None:
    micro = whole_sequences(sequences)
    logprobs, _, _ = policy(micro.sequences, micro.targets, temperature)
    expected = one_by_one(policy, sequences, temperature)
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)
    weights = torch.linspace(-1, 1, len(expected)) / len(expected)
    parameters = list(policy.parameters())
    gradients = torch.autograd.grad((logprobs * weights).sum(), parameters)
    for got, wanted in zip(gradients, torch.autograd.grad((expected * weights).sum(), parameters), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_nothing_leaks_across_the_border_of_a_sequence(policy: Policy, sequences: list[np.ndarray]) -> None:
    micro = whole_sequences(sequences)
    changed = whole_sequences([sequences[0], (sequences[1] + 5) % 19 + 2, *sequences[2:]])
    with torch.no_grad():
        before, _, _ = policy(micro.sequences, micro.targets, 1.0)
        after, _, _ = policy(changed.sequences, changed.targets, 1.0)
    others = micro.sequence_ids != 1
    assert torch.equal(before[others], after[others])
    assert not torch.isclose(before[~others], after[~others]).any()


def test_a_window_lets_a_token_see_only_so_many_before_it(policy: Policy, sequences: list[np.ndarray]) -> None:
    micro = whole_sequences(sequences)
    attention = policy.lm.model.layers[0].self_attn
    attention.sliding_window = 4
    try:
        with torch.no_grad():
            narrow = policy.lm.model(**micro.sequences.model_arguments("packed_sdpa"), use_cache=False)[0]
            ids = torch.from_numpy(sequences[3].astype(np.int64))[None]
            distance = torch.arange(30)[:, None] - torch.arange(30)
            alone = _with_mask(policy, ids, {0: (distance >= 0) & (distance < 4), 1: distance >= 0})
    finally:
        attention.sliding_window = None
    start = int(micro.sequences.borders[3])
    torch.testing.assert_close(narrow[0, start : start + 30], alone[0], atol=1e-5, rtol=0)


def _with_mask(policy: Policy, ids: torch.Tensor, masks: dict[int, torch.Tensor]) -> torch.Tensor:
    """[1, L, d] hidden states of one sequence with a mask per layer, by transformers' eager attention."""
    model = policy.lm.model
    hidden, positions = model.embed_tokens(ids), torch.arange(ids.shape[1])[None]
    rotary = model.rotary_emb(hidden, positions)
    packed = model.config._attn_implementation
    try:
        policy.lm.set_attn_implementation("eager")
        for number, layer in enumerate(model.layers):
            mask = torch.zeros(masks[number].shape).masked_fill(~masks[number], -torch.inf)[None, None]
            hidden = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
    finally:
        policy.lm.set_attn_implementation(packed)
    return model.norm(hidden)


def test_an_output_head_with_a_bias_is_refused(policy: Policy) -> None:
    head = policy.lm.lm_head
    head.bias = torch.nn.Parameter(torch.zeros(21))
    try:
        with pytest.raises(ValueError, match="plain matrix, Qwen3ForCausalLM adds a bias; use"):
            Policy(policy.lm)
    finally:
        head.bias = None
