"""How staged tensors get from a learner's GPU into the processes of one engine: over NCCL, or by CUDA-IPC handles.

Both speak the wire format of vLLM's own engines (`nccl` and `ipc`): what a carrier gives as `init_info` and
`update_info` are the fields of vLLM's dataclasses. The communicator is vLLM's too, and is handed in as `OpenGroup`:
no vllm here.
"""

import base64
import pickle
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from rollout.weights import WeightLayout
from trainer.rendezvous import free_port

Info = dict[str, Any]
Tensors = Mapping[str, Tensor]
"""What engines load, by name, in the order of the layout's pieces."""

PACKED_BYTES = 128 << 20
PACKED_BUFFERS = 2
"""Tensors are broadcast in packages of this size, one of which is filled while the other is on its way.

Each engine that is being served takes this much of the learner's GPU, and more for a single tensor that is larger.
"""


class Group(Protocol):
    """Rank 0's end of a collective group with an engine's workers."""

    def broadcast(self, tensors: Iterable[tuple[str, Tensor]], packed_bytes: int, packed_buffers: int) -> None:
        """Send to all workers, in packages; returns when everything has gone out, raises when it was aborted."""
        ...

    def abort(self) -> None:
        """End whatever this end does or waits for, from any thread; the group is of no use any more."""
        ...


OpenGroup = Callable[[str, int, int, torch.device], Group]
"""(host, port, number of processes, this end's GPU) → the group, once all have come. Rank 0 listens there."""


class Carrier(Protocol):
    """Brings versions to the workers of one engine."""

    init_info: Info
    """What vLLM's `init_weight_transfer_engine` is to be told."""

    def meet(self) -> None:
        """Open this end, while the workers open theirs."""
        ...

    def update_info(self, layout: WeightLayout, tensors: Tensors) -> Info:
        """What vLLM's `update_weights` is to be told of these tensors."""
        ...

    def send(self, tensors: Tensors) -> None:
        """Send, while the workers are in `update_weights`."""
        ...

    def abort(self) -> None:
        """End whatever hangs in `meet` or `send`, from another thread."""
        ...


class NcclCarrier:
    """A group with one engine: the learner's sender is rank 0, the engine's workers follow."""

    def __init__(self, host: str, workers: int, device: torch.device, open_group: OpenGroup) -> None:
        self._host = host
        self._device = device
        self._port = free_port(host)
        self._size = 1 + workers
        self._open_group = open_group
        self._group: Group | None = None
        self._aborted = False
        self.init_info = {
            "master_address": host,
            "master_port": self._port,
            # vLLM counts ranks from here within one engine: two engines in one group would need one offset each.
            "rank_offset": 1,
            "world_size": self._size,
            "packed": True,
            "packed_buffer_size_bytes": PACKED_BYTES,
            "packed_num_buffers": PACKED_BUFFERS,
        }

    def meet(self) -> None:
        """Open the communicator. Until it is there, what ends a wait for a worker that died is not `abort`.

        The store has a deadline of its own, and NCCL's handshake fails when the other end's sockets close.
        """
        self._group = self._open_group(self._host, self._port, self._size, self._device)
        if self._aborted:  # while it was being opened: there was nothing to abort yet
            self._group.abort()

    def update_info(self, layout: WeightLayout, tensors: Tensors) -> Info:
        """Names, dtypes and shapes: the workers cut the stream by them."""
        return _facts(layout)

    def send(self, tensors: Tensors) -> None:
        """Broadcast all of them."""
        assert self._group
        self._group.broadcast(iter(tensors.items()), PACKED_BYTES, PACKED_BUFFERS)

    def abort(self) -> None:
        """Abort the communicator (`ncclCommAbort`): it is what ends a collective whose other end has died."""
        self._aborted = True
        if self._group:
            self._group.abort()


class IpcCarrier:
    """Handles of tensors on the GPU that learner and engine share: nothing is sent, the engine copies."""

    init_info: Info = {"packed": False}  # noqa: RUF012

    def __init__(self, gpu: str, export: Callable[[Tensor], tuple[Any, ...]] | None = None) -> None:
        self._gpu = gpu
        self._export = export or (lambda tensor: reduce_tensor(tensor)[1])

    def meet(self) -> None:
        """There is nothing to meet for."""

    def update_info(self, layout: WeightLayout, tensors: Tensors) -> Info:
        """Names, dtypes, shapes and handles: {physical GPU: handle} per tensor, each exported anew.

        Pickled, as vLLM takes them over HTTP: the handles hold types, and the engine's process must be allowed to
        unpickle them (VLLM_ALLOW_INSECURE_SERIALIZATION=1).
        """
        # PyTorch counts one release per export, and the engine releases what it opened after every update.
        handles = [{self._gpu: self._export(tensors[spec.name])} for spec in layout.pieces]
        return _facts(layout) | {"ipc_handles_pickled": base64.b64encode(pickle.dumps(handles)).decode()}

    def send(self, tensors: Tensors) -> None:
        """The engine copies by itself."""

    def abort(self) -> None:
        """Nothing here ever waits."""


def gpu_uuid(device: torch.device) -> str:
    """The physical GPU, by the name that vLLM looks up handles with."""
    return str(torch.cuda.get_device_properties(device).uuid)


def _facts(layout: WeightLayout) -> Info:
    return {
        "names": [spec.name for spec in layout.pieces],
        "dtype_names": [spec.dtype for spec in layout.pieces],
        "shapes": [list(spec.shape) for spec in layout.pieces],
    }
