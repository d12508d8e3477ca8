"""A policy from a model directory, of which no process ever holds more than its shards and one tensor's rows.

First the model without any memory for parameters, then, sharded and allocated by `trainer.fsdp`, each rank's rows
straight from the files.
"""

import logging
from pathlib import Path

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from trainer.attention import choose_attention
from trainer.fsdp import ShardedPolicy
from trainer.kernels import check_fused, fuse_layers
from trainer.packable import hindrances
from trainer.policy import Policy
from trainer.rows import first_row, local_shard
from trainer.stored_names import Parts
from trainer.stored_tensors import StoredTensors

logger = logging.getLogger(__name__)


def empty_policy(
    model_dir: Path,
    attention: str,
    compute_dtype: str,
    device: torch.device,
    critic: bool = False,
    fused_kernels: bool = False,
) -> Policy:
    """The policy of a Hugging Face model directory, its float32 parameters on the meta device; buffers are real.

    It is in evaluation mode, for good: dropout and router noise would give log-probs that are nobody's.

    Raises:
        ValueError: The attention or kernels asked for cannot run here, or log-probs of such a model would be wrong.
    """
    chosen = choose_attention(attention, compute_dtype, device)
    if fused_kernels:
        check_fused(device)
    logger.info("attention: %s (asked for %s)", chosen, attention)
    config = AutoConfig.from_pretrained(model_dir, local_files_only=True)
    _refuse_other_maths(config)
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=chosen)
        policy = Policy(lm.eval(), critic, fused_kernels)
    if not policy.blocks:
        raise ValueError(
            f"RLoop shards a model block by block, and {type(lm).__name__} does not say what its blocks are; take a "
            "model of another architecture"
        )
    _compute_buffers(lm)
    if fused_kernels:
        fuse_layers(lm)
    return policy


def _refuse_other_maths(config: PretrainedConfig) -> None:
    """Sequences are packed, and log-probs come from the head's own output."""
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if architecture._is_stateful:
        raise ValueError(
            f"RLoop packs sequences, and only attention keeps them apart; {architecture.__name__} carries state from "
            "token to token; take a model with attention in every layer"
        )
    if not architecture._supports_attention_backend:
        raise ValueError(
            f"RLoop packs sequences through transformers' attention interface, which {architecture.__name__} does not "
            "use; take a model of a newer architecture"
        )
    for sentence in hindrances(architecture.__name__, config.model_type, config.to_dict()):
        raise ValueError(sentence)


def _compute_buffers(lm: PreTrainedModel) -> None:
    """Rotary frequencies and the like, which files do not hold."""
    for name, buffer in list(lm.named_buffers()):
        module, _, own_name = name.rpartition(".")
        setattr(lm.get_submodule(module), own_name, torch.empty_like(buffer, device="cpu"))
    lm.initialize_weights()  # for the parameters, on the meta device, it does nothing


@torch.no_grad()
def load_shards(policy: ShardedPolicy, stored: StoredTensors, parts: Parts) -> None:
    """Fill this rank's rows of the model; a rank reads only its rows, and of merged experts only its experts."""
    for name, parameter in policy.model.items():
        shard, num_rows, pieces = local_shard(parameter), parameter.shape[0], parts[name]
        first = first_row(num_rows, policy.rank, policy.world_size)
        if len(pieces) == 1:
            shard.copy_(stored.rows(pieces[0], first, len(shard)))
            continue
        per_expert = len(pieces) // num_rows
        for expert, matrices in enumerate(shard, first):
            names = pieces[expert * per_expert : (expert + 1) * per_expert]
            for piece, matrix in zip(names, matrices.chunk(per_expert), strict=True):
                matrix.copy_(stored.rows(piece, 0, len(matrix)))
