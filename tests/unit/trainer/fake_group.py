"""A collective group inside one process: the learner's end broadcasts into a queue, an engine's end takes from it."""

import asyncio
import queue
import threading
from typing import Any

import torch

from rollout.weight_inlet import Info


class FakeNccl:
    """Groups by port. A broadcast waits, as NCCL's does, until the other end takes; `abort` ends it with an error."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.groups: dict[int, FakeGroup] = {}

    def open_group(self, host: str, port: int, size: int, device: torch.device) -> "FakeGroup":
        self.calls.append(f"open {size}")
        return self.group(port)

    def group(self, port: int) -> "FakeGroup":
        return self.groups.setdefault(port, FakeGroup(self.calls))


class FakeGroup:
    def __init__(self, calls: list[str]) -> None:
        self._calls = calls
        self._way: queue.Queue[tuple[str, torch.Tensor]] = queue.Queue()
        self.aborted = threading.Event()
        self.broken = ""

    def broadcast(self, tensors, packed_bytes, packed_buffers) -> None:
        self._calls.append("broadcast")
        if self.broken:
            raise RuntimeError(self.broken)
        for name, tensor in tensors:
            self._way.put((name, tensor.clone()))
        while not self._way.empty():
            if self.aborted.wait(0.005):
                raise RuntimeError("NCCL error: the communicator was aborted")

    def abort(self) -> None:
        self.aborted.set()

    def take(self) -> tuple[str, torch.Tensor]:
        return self._way.get(timeout=5)


class FakeEngine:
    """What vLLM's workers do, and the order in which `rollout.vllm_engine` asks them to."""

    def __init__(self, nccl: FakeNccl, takes: bool = True) -> None:
        self._nccl, self._takes = nccl, takes
        self.joined: list[Info] = []
        self.weights: dict[str, torch.Tensor] = {}

    async def join(self, init_info: Info) -> None:
        self._nccl.calls.append("join")
        self.joined.append(init_info)

    async def load(self, inlet: Any, slot: Any) -> None:
        info = await inlet.announced(slot)
        self._nccl.calls.append("pause")
        await asyncio.gather(self._update_weights(info), inlet.sent(slot.version))
        self._nccl.calls.append("finish")

    async def _update_weights(self, info: Info) -> None:
        self._nccl.calls.append("update_weights")
        if not self._takes:
            return
        group = self._nccl.group(self.joined[-1]["master_port"])
        for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"], strict=True):
            sent, tensor = await asyncio.to_thread(group.take)
            assert (sent, str(tensor.dtype), list(tensor.shape)) == (name, f"torch.{dtype}", shape)
            self.weights[name] = tensor
