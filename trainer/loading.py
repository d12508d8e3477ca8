"""A policy from a model directory, of which no process ever holds more than its shards and one tensor's rows.

First the model without any memory for parameters, then, sharded and allocated by `trainer.fsdp`, each rank's rows
straight from the files.
"""

import logging
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rollout.weight_check import weight_files
from trainer.fsdp import ShardedPolicy, first_row
from trainer.policy import Policy, choose_attention
from trainer.stored_names import Parts, Shape

logger = logging.getLogger(__name__)


def empty_policy(model_dir: Path, attention: str, compute_dtype: str, device: torch.device) -> Policy:
    """The policy of a Hugging Face model directory, its float32 parameters on the meta device; buffers are real.

    It is in evaluation mode, for good: dropout and router noise would give log-probs that are nobody's.

    Raises `ValueError` when the attention asked for cannot run here.
    """
    chosen = choose_attention(attention, compute_dtype, device)
    logger.info("attention: %s (asked for %s)", chosen, attention)
    config = AutoConfig.from_pretrained(model_dir, local_files_only=True)
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=chosen)
    _compute_buffers(lm)
    return Policy(lm.eval())


def _compute_buffers(lm: PreTrainedModel) -> None:
    """Rotary frequencies and the like, which files do not hold."""
    for name, buffer in list(lm.named_buffers()):
        module, _, own_name = name.rpartition(".")
        setattr(lm.get_submodule(module), own_name, torch.empty_like(buffer, device="cpu"))
    lm.initialize_weights()  # for the parameters, on the meta device, it does nothing


class StoredTensors:
    """The tensors of a model directory, read by rows.

    Raises:
        ValueError: There are no safetensors files.
    """

    def __init__(self, model_dir: Path) -> None:
        files = weight_files(model_dir)
        if not files:
            found = ", ".join(sorted(path.name for path in model_dir.glob("*.bin"))[:3]) or "no weights"
            raise ValueError(
                f"weights come in *.safetensors files, got {found} in {model_dir}; convert them: "
                "AutoModelForCausalLM.from_pretrained(…).save_pretrained(…)"
            )
        self._files = [safe_open(path, framework="pt") for path in files]
        self._holder = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118
        self.shapes: dict[str, Shape] = {
            name: tuple(file.get_slice(name).get_shape()) for name, file in self._holder.items()
        }

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """[count, …] rows of a tensor in the file's dtype; only they are read."""
        rows: Tensor = self._holder[name].get_slice(name)[first : first + count]
        return rows


@torch.no_grad()
def load_shards(policy: ShardedPolicy, stored: StoredTensors, parts: Parts) -> None:
    """Fill this rank's rows of every parameter; a rank reads only its rows, and of merged experts only its experts."""
    for name, shard in policy.shards().items():
        num_rows, pieces = policy.parameters[name].shape[0], parts[name]
        first = first_row(num_rows, policy.rank, policy.world_size)
        if len(pieces) == 1:
            shard.copy_(stored.rows(pieces[0], first, len(shard)))
            continue
        per_expert = len(pieces) // num_rows
        for expert, matrices in enumerate(shard, first):
            names = pieces[expert * per_expert : (expert + 1) * per_expert]
            for piece, matrix in zip(names, matrices.chunk(per_expert), strict=True):
                matrix.copy_(stored.rows(piece, 0, len(matrix)))
