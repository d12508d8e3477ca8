"""vLLM's communicator as the learner's sender needs it. Imports vllm in the learner's process, only for NCCL.

Fits `trainer.carriers.OpenGroup` and `Group`. The workers' ends are opened by vLLM's `nccl` weight-transfer engine.
"""

import itertools
import threading
from collections.abc import Iterable

import torch
from torch import Tensor
from vllm.distributed.device_communicators.pynccl import PyNcclCommunicator
from vllm.distributed.utils import StatelessProcessGroup
from vllm.distributed.weight_transfer.packed_tensor import pack_tensors
from vllm.utils.nccl import unpinned_nccl_env

STORE_TIMEOUT_S = 120
"""How long the processes of a group may take to find each other."""


class NcclGroup:
    """Rank 0's end of a group with one engine's workers."""

    def __init__(self, host: str, port: int, size: int, device: torch.device) -> None:
        self._device = device
        store = StatelessProcessGroup.create(host, port, 0, size, store_timeout=STORE_TIMEOUT_S)
        with unpinned_nccl_env():
            self._communicator = PyNcclCommunicator(store, device)
        if self._communicator.disabled:
            raise RuntimeError("NCCL did not load here, see this process's log; choose another actors.weight_transport")
        self._aborted = threading.Event()

    def broadcast(self, tensors: Iterable[tuple[str, Tensor]], packed_bytes: int, packed_buffers: int) -> None:
        """Send to all workers as vLLM's packed receiver expects; returns when every package has gone out.

        Raises:
            RuntimeError: The group was aborted meanwhile.
        """
        # vLLM's own producer keeps one set of streams per process: there an engine that died would hold up the others.
        streams = [torch.cuda.Stream(self._device) for _ in range(packed_buffers)]
        on_their_way: list[object] = [None] * packed_buffers  # the memory that a stream still reads
        rest = iter(tensors)
        for turn in itertools.cycle(range(packed_buffers)):
            streams[turn].synchronize()
            with torch.cuda.device(self._device), torch.cuda.stream(streams[turn]):
                package = pack_tensors(rest, lambda item: item[1].to(self._device, non_blocking=True), packed_bytes)
                if package is None:
                    break
                self._communicator.broadcast(package.packed_tensor, 0, streams[turn])
            on_their_way[turn] = package
        for stream in streams:
            stream.synchronize()
        if self._aborted.is_set():
            raise RuntimeError("the group was aborted while weights were on their way")

    def abort(self) -> None:
        """`ncclCommAbort`: collectives on their way end at once, here and, with an error, in the workers."""
        self._aborted.set()
        self._communicator.destroy()
