"""The policy sharded over ranks with FSDP2: each rank holds a range of rows of every parameter.

One path for any number of ranks, one included. Parameters go by their Hugging Face names; a tied output head is the
embedding and is not listed twice.
"""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from trainer.policy import Policy


class ShardedPolicy:
    """A policy under FSDP2: forward passes, and this rank's shards of parameters and gradients.

    `policy` has its parameters on the meta device: memory is taken for shards alone, and they are not filled here.
    """

    def __init__(self, policy: Policy, mesh: DeviceMesh, compute_dtype: torch.dtype) -> None:
        self.rank = mesh.get_rank()
        self.world_size = mesh.size()
        self._policy = policy
        precision = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
        on_gpu = mesh.device_type == "cuda"  # on CPUs one more collective costs more than memory does
        self.device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        self._reduce_once = not on_gpu
        for block in policy.lm.model.layers:
            fully_shard(block, mesh=mesh, mp_policy=precision, reshard_after_forward=on_gpu)
        fully_shard(policy, mesh=mesh, mp_policy=precision, reshard_after_forward=False)
        _allocate(policy, self.device)

    def __call__(self, input_ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies, to be followed by a backward pass; see `Policy.forward`."""
        return self._policy(input_ids, temperature)

    @torch.no_grad()
    def evaluate(self, input_ids: Tensor, temperature: float) -> Tensor:
        """[b, T] log-probs without gradients."""
        logprobs, _ = self._policy(input_ids, temperature)
        for module in self._policy.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # else the gathered copy stays, and outlives the next update
        return logprobs

    @property
    def parameters(self) -> dict[str, DTensor]:
        """Sharded parameters by Hugging Face name, in the model's order."""
        return {name.removeprefix("lm."): p for name, p in self._policy.named_parameters()}

    def shards(self) -> dict[str, Tensor]:
        """This rank's rows of each parameter: the storage itself."""
        return {name: local_shard(p) for name, p in self.parameters.items()}

    def gradients(self) -> list[Tensor]:
        """This rank's rows of each gradient, in the same order; taken away from the parameters."""
        out = []
        for parameter in self.parameters.values():
            assert parameter.grad is not None
            out.append(local_shard(parameter.grad))
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


def _allocate(policy: nn.Module, device: torch.device) -> None:
    """Memory for the parameters; buffers keep their values."""
    buffers = dict(policy.named_buffers())
    policy.to_empty(device=device)
    for name, buffer in policy.named_buffers():
        buffer.copy_(buffers[name])


def local_shard(tensor: DTensor | nn.Parameter) -> Tensor:
    """This rank's rows, sharing storage."""
    with torch.no_grad():
        return tensor.to_local()


def first_row(num_rows: int, rank: int, world_size: int) -> int:
    """Index of the first row that a rank holds: FSDP2 cuts axis 0 into ranges of ceil(rows / ranks)."""
    return min(rank * -(-num_rows // world_size), num_rows)
