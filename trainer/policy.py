"""The policy: a causal language model that answers with log-probs of given tokens, never with logits.

The wrapper is the FSDP root, so hidden states and output head belong to one forward pass.
"""

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from trainer.attention import PackedSequences
from trainer.kernels import fused_logprobs
from trainer.logprobs import Entropy, token_logprobs


class Policy(nn.Module):
    """Log-probs and entropies of a causal language model, and with a critic the values of its states.

    With `fused` log-probs whose entropies are not asked for come from liger's kernel.

    Raises:
        ValueError: For an output head that is more than a matrix.
    """

    def __init__(self, lm: PreTrainedModel, critic: bool = False, fused: bool = False) -> None:
        super().__init__()
        self._fused = fused
        if lm.get_output_embeddings().bias is not None:
            raise ValueError(
                f"the output head must be a plain matrix, {type(lm).__name__} adds a bias; use another model"
            )
        self.lm = lm
        self.value_head = nn.Linear(lm.config.hidden_size, 1) if critic else None

    def forward(
        self, sequences: PackedSequences, targets: Tensor, temperature: float, entropy: Entropy = "value"
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Float32 [n] log-probs, entropies and values (with a critic), see `trainer.fsdp.Scores`.

        Args:
            sequences: T tokens of b sequences end to end.
            targets: [n] positions whose tokens are asked for; never the first of a sequence.
            temperature: As sampled: both are of softmax(logits / temperature).
            entropy: Whether entropies are computed, and carry a gradient.
        """
        arguments = sequences.model_arguments(self.lm.config._attn_implementation)
        hidden = self.lm.base_model(**arguments, use_cache=False).last_hidden_state[0]
        context = hidden.index_select(0, targets - 1)
        scale = logit_scale(self.lm.config) / temperature
        tokens = sequences.token_ids.index_select(0, targets)
        head = self.lm.get_output_embeddings().weight
        if self._fused and entropy == "none":
            logprobs = fused_logprobs(context, head, tokens, scale)
            entropies = torch.zeros_like(logprobs)
        else:
            logprobs, entropies = token_logprobs(context, head, tokens, scale, entropy)
        values = None if self.value_head is None else self.value_head(context).float().sum(-1)
        return logprobs, entropies, values

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer blocks, in order."""
        names = self.lm._no_split_modules or ()
        return [module for module in self.lm.modules() if type(module).__name__ in names]


def logit_scale(config: PretrainedConfig) -> float:
    """The factor that some architectures put on their logits: Cohere multiplies by it, Granite divides."""
    if config.model_type.startswith("cohere"):
        return float(config.logit_scale)
    return 1 / float(config.logits_scaling) if config.model_type.startswith("granite") else 1.0
