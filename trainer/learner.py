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
import psutil
import torch
import torch.distributed as dist
from transformers import AutoConfig

from rollout.records import FloatArray, IntArray, TrainingBatch
from rollout.transports import Transport
from rollout.weights import WeightLayout, WeightSlot
from trainer import checkpoints, publish
from trainer.batching import split_by_groups, whole_sequences
from trainer.carriers import OpenGroup
from trainer.checkpoint_writer import CheckpointWriter
from trainer.config import OptimConfig, TrainerConfig
from trainer.export import export_model
from trainer.flops import Work, active_parameters, peak_flops
from trainer.fsdp import ShardedPolicy, Sharding
from trainer.loading import empty_policy, load_shards
from trainer.lora import add_adapters, export_adapters, start_adapters
from trainer.objectives import Objective, rl_objective, sft_objective
from trainer.optim import ShardedAdamW
from trainer.policy import Policy
from trainer.reference import Reference
from trainer.rendezvous import join_ranks, leave_ranks, own_address, rank_device
from trainer.shelves import Shelf, make_shelf
from trainer.stored_names import Parts, parts_of
from trainer.stored_tensors import StoredTensors
from trainer.updates import Trainer

ObjectiveName = Literal["rl", "sft", "rft"]


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
        max_new_tokens: int = 1,
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
        self._objectives: dict[ObjectiveName, Objective] = {
            "rl": rl_objective(config.rl, max_new_tokens),
            "sft": sft_objective(),
            "rft": sft_objective(config.rft.kl_weight),
        }
        self._seed = seed
        self._publish_dtype = publish_dtype
        self._weight_transport = weight_transport
        self._open_group = open_group
        self._shelf: Shelf | None = None
        self._device = rank_device(rank)
        self._policy: ShardedPolicy | None = None
        self._optimizer: ShardedAdamW | None = None
        self._reference: Reference | None = None
        self._work: Work | None = None
        self._writer: CheckpointWriter | None = None
        self._parts: Parts = {}

    def connect(self, master_address: str, port: int, timeout_s: float) -> None:
        """Join the other ranks and build the sharded policy from the model directory."""
        torch.manual_seed(self._seed)
        config, stored = self._config, StoredTensors(self._model_dir)
        policy = empty_policy(
            self._model_dir,
            self._attention,
            config.compute_dtype,
            self._device,
            config.rl.has_critic,
            config.fused_kernels,
        )
        self._parts = parts_of(policy.lm, stored)
        self._work = _work(policy, frozen=config.lora.rank > 0)
        if config.lora.rank:
            add_adapters(policy.lm, policy.blocks, config.lora, getattr(torch, config.compute_dtype))
        mesh = join_ranks(self._rank, self._world_size, master_address, port, timeout_s, self._device)
        self._policy = ShardedPolicy(policy, mesh, self._sharding())
        load_shards(self._policy, stored, self._parts)
        start_adapters(self._policy.weights, self._seed)
        self._writer = CheckpointWriter(timeout_s)
        host = own_address(master_address, port)
        self._shelf = make_shelf(self._weight_transport, self._rank, host, self._device, self._open_group)

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

    @property
    def writer(self) -> CheckpointWriter:
        """What writes checkpoints; raises before `connect`."""
        if self._writer is None:
            raise RuntimeError(f"learner rank {self._rank} is not connected; call connect first")
        return self._writer

    def begin_phase(self, weights: str | None, optim: OptimConfig, total_steps: int) -> str:
        """Load weights from a checkpoint of `save` (None keeps the current ones) and start a fresh optimizer.

        They are the phase's reference, if its loss has one. `total_steps` is the number of batches the schedule spans.
        Returns the hash of the weights.
        """
        self._start_from(weights)
        self._optimizer = self._fresh_optimizer(optim, total_steps)
        return self.weights_hash()

    def merge(self, sources: Sequence[tuple[str, float]]) -> str:
        """Take the weighted average of checkpoints of `save`: (directory, share) of each. Returns the hash of it.

        Adapters are averaged factor by factor, which is not the average of their products.
        """
        self._start_from(None)
        checkpoints.load_average([(Path(directory), share) for directory, share in sources], self.policy.weights)
        return self.weights_hash()

    def resume(self, directory: str, began_from: str | None, optim: OptimConfig, total_steps: int) -> None:
        """Continue a phase, which `began_from` these weights, from a checkpoint saved with its optimizer."""
        with_reference = any("reference" in objective.needs for objective in self._objectives.values())
        self._start_from(began_from if with_reference else None)
        if with_reference:
            self._reference = Reference(self.policy.shards())
        self._optimizer = self._fresh_optimizer(optim, total_steps)
        checkpoints.load_checkpoint(Path(directory), self.policy.trained, self._optimizer)

    def _start_from(self, weights: str | None) -> None:
        if weights is not None:
            checkpoints.load_checkpoint(Path(weights), self.policy.weights, None)
        self._optimizer = self._reference = None  # let go of before the next ones are made
        self.policy.reset_critic()

    def step(self, batch: TrainingBatch, objective: ObjectiveName) -> dict[str, float]:
        """Train on one batch (`rl.minibatches` updates, or one of demonstrations); returns metrics over all ranks.

        An update whose loss or gradient is not finite is left out on every rank: see the metric `skipped`.
        """
        began = time.perf_counter()
        # Demonstrations were not sampled at any temperature: their likelihood is the model's own.
        temperature = self._temperature if objective == "rl" else 1.0
        if "reference" in self._objectives[objective].needs and self._reference is None:
            self._reference = Reference(self.policy.shards())  # the first step of a phase: its weights are untouched
        trainer = self._trainer(temperature)
        parts = split_by_groups(batch, self._config.rl.minibatches) if objective == "rl" else [batch]
        metrics = trainer.train(parts, self._objectives[objective], self.optimizer)
        seconds = time.perf_counter() - began
        return metrics | {"train_s": seconds} | self._efficiency(batch, seconds)

    def nll(self, batch: TrainingBatch) -> float:
        """Mean negative log-likelihood of the batch's loss tokens at temperature 1, in nats; nothing is trained."""
        return self._trainer(temperature=1.0).nll(batch)

    def _trainer(self, temperature: float) -> Trainer:
        assert self._work is not None
        config = self._config
        return Trainer(
            self.policy,
            temperature,
            config.micro_batch_tokens,
            config.max_grad_norm,
            self._work.linear_cost,
            self._reference,
        )

    def _efficiency(self, batch: TrainingBatch, seconds: float) -> dict[str, float]:
        """Speed and memory of a step of this rank's."""
        out = {"learner_tokens_per_s": len(batch.token_ids) / seconds}
        if self._device.type != "cuda":
            return out | {"learner_memory_gib": psutil.Process().memory_info().rss / 2**30}
        out["learner_memory_gib"] = torch.cuda.max_memory_allocated(self._device) / 2**30
        peak = peak_flops(torch.cuda.get_device_name(self._device))
        if peak and self._work:
            out["mfu"] = self._work.of_batch(batch.lengths.tolist()) / seconds / (peak * self._world_size)
        return out

    def layout(self) -> WeightLayout:
        """Where each full tensor lies in a weight file, in the publish dtype, and where this rank serves its copy."""
        layout = publish.layout_of(self.policy.model, self._parts, self._publish_dtype, self._world_size)
        return replace(layout, sources=self._shelf.sources) if self._shelf else layout

    def stage(self, slot: WeightSlot) -> None:
        """Write this rank's rows into the slot's file, or put a copy on the shelf; returns when all ranks have.

        From then on the slot has all there is to know of the version: training may go on while engines load it.
        """
        if self._shelf:
            self._shelf.put(self.policy.published(), slot, self._rank, self._world_size)
        else:
            publish.write_shards(self.policy.published(), slot, self._rank, self._world_size)
        dist.barrier()

    def probe(self, sequences: Sequence[IntArray]) -> list[FloatArray]:
        """[L-1] log-probs at temperature 1 of tokens 1… of each sequence."""
        micro = whole_sequences(sequences).to(self._device)
        logprobs = self.policy.evaluate(micro, temperature=1.0).logprobs.cpu().numpy()
        return np.split(logprobs, np.cumsum([len(s) - 1 for s in sequences])[:-1])

    def weights_hash(self) -> str:
        """sha256 over names and full tensors; the same for any number of ranks."""
        return checkpoints.hash_weights(self.policy.published())

    def save(self, directory: str, optimizer: bool) -> None:
        """Begin to write a sharded checkpoint of now, with optimizer, schedule position and random state when asked.

        Returns when the state is copied: it may change while it is written. One at a time; `saved` tells of its end.
        """
        tensors = self.policy.trained if optimizer else self.policy.weights
        self.writer.save(Path(directory), tensors, self.optimizer if optimizer else None)

    def saved(self, timeout_s: float) -> bool:
        """Whether the last `save` is whole and durable; waits at most `timeout_s`. Raises `NotWritten` if it failed."""
        return self.writer.saved(timeout_s)

    def export(self, directory: str) -> None:
        """Write a Hugging Face model directory in the dtype of the model that training began with.

        With adapters they are merged into it, and also written by themselves to `adapter` beside it.
        """
        dtype = AutoConfig.from_pretrained(self._model_dir, local_files_only=True).dtype or torch.float32
        export_model(Path(directory), self.policy.published(), self._parts, self._model_dir, dtype)
        if self._config.lora.rank:
            adapters = Path(directory).with_name("adapter")
            export_adapters(adapters, self.policy.weights, self._config.lora, self._model_dir)

    def close(self) -> None:
        """Let a save under way end, then leave the process group. Safe to call twice."""
        if self._writer:
            self._writer.close()
        self._policy = self._optimizer = None
        if self._shelf:
            self._shelf.close()
        leave_ranks()

    def _sharding(self) -> Sharding:
        config = self._config
        return Sharding(
            getattr(torch, config.compute_dtype),
            config.reshard_after_forward,
            config.activation_checkpointing,
            config.cpu_offload,
            config.lora.alpha / config.lora.rank if config.lora.rank else None,
        )

    def _fresh_optimizer(self, optim: OptimConfig, total_steps: int) -> ShardedAdamW:
        matrices = frozenset(name for name, p in self.policy.trained.items() if p.ndim >= 2)
        return ShardedAdamW(self.policy.shards(), matrices, optim, total_steps)


def _work(policy: Policy, frozen: bool) -> Work:
    experts = sum(p.numel() for name, p in policy.named_parameters() if ".experts." in name)
    everything = sum(p.numel() for p in policy.parameters())
    return Work.of(policy.lm.config, active_parameters(policy.lm.config, everything, experts), frozen)
