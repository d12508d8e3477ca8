"""The policy sharded over ranks with FSDP2: each rank holds a range of rows of every parameter.

One path for any number of ranks, one included. Parameters go by their Hugging Face names; a tied output head is the
embedding and is not listed twice.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from trainer.batching import MicroBatch
from trainer.logprobs import Entropy
from trainer.lora import MergedWeights, own_name
from trainer.policy import Policy
from trainer.rows import local_shard

_CRITIC = "value_head."
_WRAPPER = "_checkpoint_wrapped_module."  # what a checkpointed block puts into the names of its parameters


@dataclass(frozen=True, slots=True)
class Sharding:
    """How memory is traded for time."""

    compute_dtype: torch.dtype = torch.float32
    """Of forward and backward; master weights and gradient sums are float32."""
    reshard_after_forward: bool | None = None
    """Free a block's gathered parameters after its forward pass; None: on GPUs, where memory is scarce."""
    activation_checkpointing: bool = False
    """Compute each block's activations again in the backward pass."""
    cpu_offload: bool = False
    """Keep shards, gradients and optimizer state in host memory."""
    adapter_scale: float | None = None
    """What adapters are multiplied by when they are merged; None for a policy without."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What the policy says of n target tokens, float32."""

    logprobs: Tensor
    """[n] of softmax(logits / temperature), the distribution that was sampled from."""
    entropies: Tensor
    """[n] of the same distribution."""
    values: Tensor | None = None
    """[n] of the states before the targets, where there is a critic."""


class ShardedPolicy:
    """A policy under FSDP2: forward passes, and this rank's shards of parameters and gradients.

    `policy` has its parameters on the meta device: memory is taken for shards alone, and they are not filled here.
    """

    def __init__(self, policy: Policy, mesh: DeviceMesh, sharding: Sharding) -> None:
        self.rank = mesh.get_rank()
        self.world_size = mesh.size()
        self._policy = policy
        self._adapter_scale = sharding.adapter_scale
        on_gpu = mesh.device_type == "cuda"  # on CPUs one more collective costs more than memory does
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self._reduce_once = not on_gpu
        blocks = _checkpointed(policy) if sharding.activation_checkpointing else policy.blocks
        precision = MixedPrecisionPolicy(param_dtype=sharding.compute_dtype, reduce_dtype=torch.float32)
        offload = CPUOffloadPolicy() if sharding.cpu_offload and on_gpu else OffloadPolicy()
        reshard = on_gpu if sharding.reshard_after_forward is None else sharding.reshard_after_forward
        for block in blocks:
            fully_shard(block, mesh=mesh, mp_policy=precision, offload_policy=offload, reshard_after_forward=reshard)
        fully_shard(policy, mesh=mesh, mp_policy=precision, offload_policy=offload, reshard_after_forward=False)
        _allocate(policy, torch.device("cpu") if sharding.cpu_offload else self.device)

    def __call__(self, micro: MicroBatch, temperature: float, entropy: Entropy = "value") -> Scores:
        """Scores [n] of a micro-batch's targets, to be followed by a backward pass."""
        return Scores(*self._policy(micro.sequences, micro.targets, temperature, entropy))

    @torch.no_grad()
    def evaluate(self, micro: MicroBatch, temperature: float) -> Scores:
        """The same without gradients."""
        scores = self(micro, temperature)
        for module in self._policy.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # else the gathered copy stays, and outlives the next update
        return scores

    @property
    def model(self) -> dict[str, DTensor]:
        """Sharded parameters of the model by Hugging Face name, in its order: without adapters and critic."""
        named = {own_name(name): p for name, p in self._named() if not name.startswith(_CRITIC)}
        return {name: p for name, p in named.items() if name is not None}

    @property
    def trained(self) -> dict[str, DTensor]:
        """Sharded parameters that are trained: the model's or its adapters', and the critic's."""
        return {name: p for name, p in self._named() if p.requires_grad}

    @property
    def weights(self) -> dict[str, DTensor]:
        """The same without the critic: what tells one policy from another."""
        return {name: p for name, p in self.trained.items() if not name.startswith(_CRITIC)}

    def published(self) -> Mapping[str, DTensor]:
        """The policy as others know it, by Hugging Face name: the model, adapters merged in. A collective."""
        if self._adapter_scale is None:
            return self.model
        return MergedWeights(self.model, self.weights, self._adapter_scale)

    def _named(self) -> Iterator[tuple[str, DTensor]]:
        for name, parameter in self._policy.named_parameters():
            yield name.replace(_WRAPPER, "").removeprefix("lm."), parameter

    def shards(self) -> dict[str, Tensor]:
        """This rank's rows of each trained parameter: the storage itself."""
        return {name: local_shard(p) for name, p in self.trained.items()}

    def reset_critic(self) -> None:
        """Let every state be worth 0 again."""
        for name, shard in self.shards().items():
            if name.startswith(_CRITIC):
                shard.zero_()

    def gradients(self) -> list[Tensor]:
        """This rank's rows of each gradient, in the same order; taken away from the parameters.

        What a batch does not use (the critic in supervised phases) has a gradient of 0.
        """
        out = []
        for parameter in self.trained.values():
            out.append(local_shard(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad))
            parameter.grad = None
        return out

    def reduce_next(self, last: bool) -> None:
        """Say whether the next backward pass is the `last` of an update.

        On CPUs only that one reduces gradients over ranks; on GPUs each does, since unreduced ones are not sharded.
        """
        if self._reduce_once:
            assert isinstance(self._policy, FSDPModule)
            self._policy.set_requires_gradient_sync(last)
            self._policy.set_reshard_after_backward(last)


def _checkpointed(policy: Policy) -> list[nn.Module]:
    """The policy's blocks, each wrapped so that gathering its parameters stays outside of what is repeated."""
    blocks = set(policy.blocks)
    parents = [module for module in policy.modules() if blocks.intersection(module.children())]
    for parent in parents:
        for name, child in list(parent.named_children()):
            setattr(parent, name, checkpoint_wrapper(child))
    return [wrapped for parent in parents for wrapped in parent.children()]


def _allocate(policy: nn.Module, device: torch.device) -> None:
    """Memory for the parameters; buffers keep their values."""
    buffers = dict(policy.named_buffers())
    policy.to_empty(device=device)
    for name, buffer in policy.named_buffers():
        buffer.copy_(buffers[name])
