from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer.policy import Policy, choose_attention

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def policy(model_dir: Path) -> Policy:
    return Policy(AutoModelForCausalLM.from_pretrained(model_dir))


def reference(policy: Policy, ids: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies [b, T-1] from whole logits."""
    whole = (policy.lm(input_ids=ids).logits[:, :-1] / temperature).log_softmax(-1)
    return whole.gather(-1, ids[:, 1:, None]).squeeze(-1), -(whole.exp() * whole).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_chunks_equal_the_whole_softmax_in_value_and_gradient(policy: Policy, temperature: float) -> None:
    ids = torch.randint(2, 21, (3, 9), generator=torch.Generator().manual_seed(0))
    weights = torch.linspace(-1, 1, 24).view(3, 8)
    chunked = Policy(policy.lm, logits_per_chunk=21 * 5)  # 24 predictions in five chunks
    logprobs, entropies = chunked(ids, temperature)
    expected, expected_entropies = reference(policy, ids, temperature)
    assert (logprobs[:, 0] == 0).all()
    torch.testing.assert_close(logprobs[:, 1:], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropies[:, 1:], expected_entropies, atol=1e-5, rtol=0)

    parameters = list(policy.parameters())
    gradients = torch.autograd.grad((logprobs[:, 1:] * weights).sum(), parameters)
    for got, wanted in zip(gradients, torch.autograd.grad((expected * weights).sum(), parameters), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_padding_on_the_right_changes_nothing(policy: Policy) -> None:
    rows = [torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10, 11, 12, 13, 14])]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    with torch.no_grad():
        together, _ = policy(padded, 1.0)
        for i, row in enumerate(rows):
            alone, _ = policy(row[None], 1.0)
            torch.testing.assert_close(together[i, : len(row)], alone[0], atol=1e-6, rtol=0)


def test_flash_attention_is_refused_with_its_reason_and_auto_goes_without() -> None:
    with pytest.raises(
        ValueError, match=r"flash_attention_2 cannot run here: it needs a CUDA device, got cpu; use auto"
    ):
        choose_attention("flash_attention_2", "bfloat16", CPU)
    with pytest.raises(ValueError, match="computes in bfloat16, got compute_dtype float32"):
        choose_attention("flash_attention_2", "float32", torch.device("cuda"))
    assert choose_attention("auto", "float32", CPU) == "sdpa"
