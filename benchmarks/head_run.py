"""Log-probs at a large vocabulary, forward and backward: how long, and how much memory. For a process of its own."""

from dataclasses import dataclass
from pathlib import Path

import torch
from one_thread import Took, timed

from trainer.logprobs import token_logprobs


@dataclass(frozen=True, slots=True)
class HeadRun:
    """Log-probs of `tokens` tokens from hidden states, forward and backward."""

    took: Took
    mib: float
    """Highest resident memory during it, less that before it: activations and gradients."""


def run_head(chunked: bool, tokens: int, hidden_size: int, vocab_size: int) -> HeadRun:
    """Once, in a process that does nothing else: its peak is never taken back."""
    hidden = torch.randn(tokens, hidden_size, requires_grad=True)
    weight = torch.randn(vocab_size, hidden_size).mul_(0.02).requires_grad_()
    targets = torch.randint(0, vocab_size, (tokens,))

    def full() -> None:
        logits = hidden @ weight.T
        logits.log_softmax(-1).gather(-1, targets[:, None]).sum().backward()

    def in_chunks() -> None:
        token_logprobs(hidden, weight, targets, 1.0)[0].sum().backward()

    before = _peak_mib()
    took = timed(in_chunks if chunked else full)
    return HeadRun(took, _peak_mib() - before)


def _peak_mib() -> float:
    """Highest resident memory of this process; `ru_maxrss` would begin with that of the process that spawned it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024
