"""AdamW and its learning-rate schedule. Each rank steps its own shard; state is made at once, not at the first step.

AdamW is element-wise, so stepping the local shards is exactly stepping the whole tensors, without the cost of
dispatching hundreds of small distributed operations.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.config import OptimConfig


class ShardedAdamW:
    """AdamW with decoupled weight decay on matrices only, over this rank's float32 shards."""

    def __init__(self, shards: Mapping[str, Tensor], matrices: frozenset[str], config: OptimConfig, total: int) -> None:
        self.config = config
        self.total_steps = total
        self.steps_done = 0
        """Calls of `finish_batch`: what the learning rate follows."""
        self.names = list(shards)
        self._shards = list(shards.values())
        decayed = [t for n, t in shards.items() if n in matrices]
        plain = [t for n, t in shards.items() if n not in matrices]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self._adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=(0.9, 0.999), fused=True)
        for shard in self._shards:
            self._adam.state[shard] = {
                "step": torch.zeros((), device=shard.device),
                "exp_avg": torch.zeros_like(shard),
                "exp_avg_sq": torch.zeros_like(shard),
            }

    @property
    def lr(self) -> float:
        """Learning rate of the batch at hand."""
        return learning_rate(self.config, self.steps_done, self.total_steps)

    def update(self, gradients: list[Tensor]) -> None:
        """One AdamW update from this rank's gradient shards, in the order of `names`."""
        for group in self._adam.param_groups:
            group["lr"] = self.lr
        for shard, gradient in zip(self._shards, gradients, strict=True):
            shard.grad = gradient
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def finish_batch(self) -> None:
        """Move on the schedule: once per batch, however many minibatches it had."""
        self.steps_done += 1

    def moments(self) -> dict[str, dict[str, Tensor]]:
        """Per parameter name, this rank's `exp_avg` and `exp_avg_sq`: the tensors themselves, to save or fill."""
        return {
            name: {key: self._adam.state[shard][key] for key in ("exp_avg", "exp_avg_sq")}
            for name, shard in zip(self.names, self._shards, strict=True)
        }

    @property
    def updates(self) -> int:
        """AdamW updates so far (for its bias correction)."""
        return int(self._adam.state[self._shards[0]]["step"])

    def restore(self, steps_done: int, updates: int) -> None:
        """Set the counters after `moments` were filled from a checkpoint."""
        self.steps_done = steps_done
        for shard in self._shards:
            self._adam.state[shard]["step"].fill_(updates)


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """Learning rate at `step` (from 0): linear warm-up, then constant, linear or cosine towards 0 at `total_steps`.

    The first warm-up step has lr / warmup_steps, not 0, which would waste a batch.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.decay == "constant":
        return config.lr
    progress = min((step - config.warmup_steps) / max(total_steps - config.warmup_steps, 1), 1.0)
    return config.lr * (1 - progress if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress)))
