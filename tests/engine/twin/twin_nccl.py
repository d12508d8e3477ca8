"""Takes the place of vLLM's `nccl` receiver in an engine process on CPU: the same calls, tensors by way of a TCP store.

vLLM loads this as a plug-in in each of its processes. What is not NCCL's own is vLLM's: start, finish, bookkeeping.
"""

from typing import Any

import torch
from vllm.distributed.utils import StatelessProcessGroup
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine


class TwinNccl(NCCLWeightTransferEngine):
    def init_transfer_engine(self, init_info: Any) -> None:
        rank = self.parallel_config.rank + init_info.rank_offset
        self.model_update_group: Any = StatelessProcessGroup.create(
            init_info.master_address, init_info.master_port, rank, init_info.world_size, store_timeout=20
        )

    def receive_weights(self, update_info: Any) -> None:
        facts = zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True)
        for name, dtype, shape in facts:
            tensor = self.model_update_group.broadcast(torch.empty(0), src=0)
            assert (tensor.dtype, list(tensor.shape)) == (getattr(torch, dtype), shape)
            self.model.load_weights([(name, tensor)])

    def shutdown(self) -> None:
        self.model_update_group = None


def register() -> None:
    WeightTransferEngineFactory._registry["nccl"] = lambda: TwinNccl
