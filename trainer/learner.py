"""One rank of the learner: a plain class whose methods every rank calls in lockstep. No Ray here.

Consumes training batches (whole ones: each rank takes its share by itself). Waits only inside collectives, which have
the process group's deadline. A failure leaves the rank unusable: the group is rebuilt and resumes from a checkpoint.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
from transformers import AutoConfig

from rollout.records import FloatArray, IntArray, TrainingBatch
from rollout.transports import Transport
from rollout.weights import WeightLayout, WeightSlot
from trainer import checkpoints, publish
from trainer.batching import bucket, pad_rows, split_by_groups
from trainer.carriers import OpenGroup
from trainer.config import OptimConfig, TrainerConfig
from trainer.export import export_model
from trainer.fsdp import ShardedPolicy
from trainer.loading import empty_policy, load_shards
from trainer.optim import ShardedAdamW
from trainer.rendezvous import join_ranks, leave_ranks, own_address, rank_device
from trainer.shelves import Shelf, make_shelf
from trainer.stored_names import Parts, parts_of
from trainer.stored_tensors import StoredTensors
from trainer.updates import Objective, Trainer

ObjectiveName = Literal["rl", "sft"]


class LearnerRank:
    """Holds one shard of policy and optimizer. Call `connect`, then `begin_phase` or `resume`, then `step`."""

    def __init__(
        self,
        rank: int,
        world_size: int,
        model_dir: Path,
        config: TrainerConfig,
        attention: str = "auto",
        temperature: float = 1.0,
        seed: int = 0,
        publish_dtype: str = "float32",
        weight_transport: Transport = "shared_memory",
        open_group: OpenGroup | None = None,
    ) -> None:
        self._rank = rank
        self._world_size = world_size
        self._model_dir = Path(model_dir)
        self._config = config
        self._attention = attention
        self._temperature = temperature
        self._seed = seed
        self._publish_dtype = publish_dtype
        self._weight_transport = weight_transport
        self._open_group = open_group
        self._shelf: Shelf | None = None
        self._device = rank_device(rank)
        self._policy: ShardedPolicy | None = None
        self._optimizer: ShardedAdamW | None = None
        self._parts: Parts = {}

    def connect(self, master_address: str, port: int, timeout_s: float) -> None:
        """Join the other ranks and build the sharded policy from the model directory."""
        torch.manual_seed(self._seed)
        policy = empty_policy(self._model_dir, self._attention, self._config.compute_dtype, self._device)
        stored = StoredTensors(self._model_dir)
        self._parts = parts_of(policy.lm, stored)
        mesh = join_ranks(self._rank, self._world_size, master_address, port, timeout_s, self._device)
        self._policy = ShardedPolicy(policy, mesh, getattr(torch, self._config.compute_dtype))
        load_shards(self._policy, stored, self._parts)
        host = own_address(master_address, port)
        self._shelf = make_shelf(
            self._weight_transport, self._rank, self._world_size, host, self._device, self._open_group
        )

    @property
    def policy(self) -> ShardedPolicy:
        """The sharded policy; raises before `connect`."""
        if self._policy is None:
            raise RuntimeError(f"learner rank {self._rank} is not connected; call connect first")
        return self._policy

    @property
    def optimizer(self) -> ShardedAdamW:
        """This phase's optimizer; raises before `begin_phase`."""
        if self._optimizer is None:
            raise RuntimeError(f"learner rank {self._rank} has no optimizer; call begin_phase or resume first")
        return self._optimizer

    def begin_phase(self, weights: str | None, optim: OptimConfig, total_steps: int) -> str:
        """Load weights from a checkpoint of `save` (None keeps the current ones) and start a fresh optimizer.

        `total_steps` is the number of batches the schedule spans. Returns the hash of the weights.
        """
        if weights is not None:
            checkpoints.load_checkpoint(Path(weights), self.policy.parameters, None)
        self._optimizer = self._fresh_optimizer(optim, total_steps)
        return self.weights_hash()

    def resume(self, directory: str, optim: OptimConfig, total_steps: int) -> str:
        """Continue a phase from a checkpoint saved with its optimizer; returns the hash of the weights."""
        self._optimizer = self._fresh_optimizer(optim, total_steps)
        checkpoints.load_checkpoint(Path(directory), self.policy.parameters, self._optimizer)
        return self.weights_hash()

    def step(self, batch: TrainingBatch, objective: ObjectiveName) -> dict[str, float]:
        """Train on one batch (`rl.minibatches` updates, or one for `sft`); returns metrics over all ranks.

        Raises `FloatingPointError` on every rank, before the weights are touched, when loss or gradient norm is not
        finite.
        """
        began = time.perf_counter()
        rl = self._config.rl
        # Demonstrations were not sampled at any temperature: their likelihood is the model's own.
        temperature = self._temperature if objective == "rl" else 1.0
        trainer = Trainer(self.policy, temperature, self._config.micro_batch_tokens, self._config.max_grad_norm)
        if objective == "rl":
            metrics = trainer.train(split_by_groups(batch, rl.minibatches), Objective.rl(rl), self.optimizer)
        else:
            metrics = trainer.train([batch], Objective.sft(), self.optimizer)
        seconds = time.perf_counter() - began
        return metrics | {"train_s": seconds}

    def layout(self) -> WeightLayout:
        """Where each full tensor lies in a weight file, in the publish dtype, and where this rank serves its copy."""
        layout = publish.layout_of(self.policy.parameters, self._parts, self._publish_dtype, self._world_size)
        return replace(layout, sources=self._shelf.sources) if self._shelf else layout

    def stage(self, slot: WeightSlot) -> None:
        """Write this rank's rows into the slot's file, or put a copy on the shelf; returns when all ranks have.

        From then on the slot has all there is to know of the version: training may go on while engines load it.
        """
        if self._shelf:
            self._shelf.put(self.policy.parameters, slot, self._rank, self._world_size)
        else:
            publish.write_shards(self.policy.parameters, slot, self._rank, self._world_size)
        dist.barrier()

    def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        """[L-1] log-probs at temperature 1 of tokens 1… of each sequence."""
        lengths = np.array([len(s) for s in sequences], np.int32)
        longest_first = np.argsort(-lengths, kind="stable").tolist()
        out: dict[int, FloatArray] = {}
        for rows in bucket(lengths, longest_first, self._config.micro_batch_tokens):
            input_ids = pad_rows([sequences[i] for i in rows], np.dtype(np.int64)).to(self._device)
            logprobs = self.policy.evaluate(input_ids, temperature=1.0).cpu().numpy()
            out |= {i: logprobs[row, 1 : lengths[i]].copy() for row, i in enumerate(rows)}
        return [out[i] for i in range(len(sequences))]

    def weights_hash(self) -> str:
        """sha256 over names and full tensors; the same for any number of ranks."""
        return checkpoints.hash_weights(self.policy.parameters)

    def save(self, directory: str, optimizer: bool) -> None:
        """Write a sharded checkpoint, with optimizer, schedule position and random state when asked."""
        checkpoints.save_checkpoint(Path(directory), self.policy.parameters, self.optimizer if optimizer else None)

    def export(self, directory: str) -> None:
        """Write a Hugging Face model directory in the dtype of the model that training began with."""
        dtype = AutoConfig.from_pretrained(self._model_dir, local_files_only=True).dtype or torch.float32
        export_model(Path(directory), self.policy.parameters, self._parts, self._model_dir, dtype)

    def close(self) -> None:
        """Leave the process group. Safe to call twice."""
        self._policy = self._optimizer = None
        if self._shelf:
            self._shelf.close()
        leave_ranks()

    def _fresh_optimizer(self, optim: OptimConfig, total_steps: int) -> ShardedAdamW:
        matrices = frozenset(name for name, p in self.policy.parameters.items() if p.ndim >= 2)
        return ShardedAdamW(self.policy.shards(), matrices, optim, total_steps)
