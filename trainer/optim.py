"""AdamW and its learning-rate schedule. Each rank steps its own shard; state is made at once, not at the first step.

AdamW is element-wise, so stepping the local shards is exactly stepping the whole tensors, without the cost of
dispatching hundreds of small distributed operations.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.config import OptimConfig

Moments = dict[str, dict[str, Tensor]]
MOMENTS = ("exp_avg", "exp_avg_sq")


class ShardedAdamW:
    """AdamW with decoupled weight decay on matrices only, over this rank's float32 shards.

    Raises:
        ValueError: The 8-bit variant cannot run here.
    """

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
        make = _adamw_8bit if config.name == "adamw_8bit" else _adamw
        self._adam, self._moment = make([g for g in groups if g["params"]], config)
        for shard in self._shards:
            self._adam.state[shard] = {
                "step": torch.zeros((), device=shard.device),
                "exp_avg": self._moment(shard, True),
                "exp_avg_sq": self._moment(shard, False),
            }

    @property
    def lr(self) -> float:
        """Learning rate of the batch at hand."""
        return learning_rate(self.config, self.steps_done, self.total_steps)

    def update(self, gradients: list[Tensor]) -> None:
        """One AdamW update from this rank's gradient shards, in the order of `names`."""
        for group in self._adam.param_groups:
            group["lr"].fill_(self.lr)
        for shard, gradient in zip(self._shards, gradients, strict=True):
            shard.grad = gradient
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    def finish_batch(self) -> None:
        """Move on the schedule: once per batch, however many minibatches it had."""
        self.steps_done += 1

    def moments(self) -> Iterator[tuple[str, str, Tensor]]:
        """Parameter name, `exp_avg` or `exp_avg_sq`, and this rank's part of it in float32, one after the other.

        The tensors themselves, except of those that are quantised.
        """
        for name, shard in zip(self.names, self._shards, strict=True):
            for key in MOMENTS:
                yield name, key, _plain(self._adam.state[shard][key])

    @property
    def updates(self) -> int:
        """AdamW updates so far (for its bias correction)."""
        return int(self._adam.state[self._shards[0]]["step"])

    def restore(self, steps_done: int, updates: int, moments: Moments) -> None:
        """Set counters and moments to those of a checkpoint; quantised ones are rounded once more."""
        self.steps_done = steps_done
        for name, shard in zip(self.names, self._shards, strict=True):
            self._adam.state[shard]["step"].fill_(updates)
            for key, moment in moments[name].items():
                self._adam.state[shard][key].copy_(moment)


def _plain(moment: Tensor) -> Tensor:
    dequantize = getattr(moment, "dequantize", None) if type(moment) is not Tensor else None
    return dequantize() if dequantize else moment


def _adamw(groups: list[dict[str, Any]], config: OptimConfig) -> tuple[torch.optim.Optimizer, Any]:
    """PyTorch's fused AdamW, and how a moment is made."""
    adam = torch.optim.AdamW(groups, **_settings(config), fused=True)
    return adam, lambda shard, signed: torch.zeros_like(shard)


def _adamw_8bit(groups: list[dict[str, Any]], config: OptimConfig) -> tuple[torch.optim.Optimizer, Any]:
    """torchao's AdamW with block-wise quantised moments (2110.02861)."""
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise ValueError(
            f"optim.name adamw_8bit needs torchao ({error}); install rloop[torchao] or use adamw"
        ) from error
    adam = AdamW8bit(groups, **_settings(config))
    return adam, adam._new_buffer


def _settings(config: OptimConfig) -> dict[str, Any]:
    # A tensor, so that neither optimizer takes a new rate for a new program.
    return {"lr": torch.tensor(config.lr), "betas": (config.beta1, config.beta2), "eps": config.epsilon}


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """Learning rate at `step` (from 0): linear warm-up, then constant, linear or cosine towards its floor.

    The first warm-up step has lr / warmup_steps, not 0, which would waste a batch. The floor, `min_lr_frac` × lr, is
    reached at `total_steps`.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.decay == "constant":
        return config.lr
    progress = min((step - config.warmup_steps) / max(total_steps - config.warmup_steps, 1), 1.0)
    shape = 1 - progress if config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (config.min_lr_frac + (1 - config.min_lr_frac) * shape)
