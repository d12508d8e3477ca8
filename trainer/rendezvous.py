"""How learner ranks find each other: one process group with a deadline. Nothing about models."""

import ipaddress
import os
import socket
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that is free on `address` now; rank 0's process picks it just before the ranks connect."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def own_address(peer: str, port: int) -> str:
    """The address of this host on the way to a peer; nothing is sent."""
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.connect((peer, port))
        return str(probe.getsockname()[0])


def rank_device(rank: int) -> torch.device:
    """Where a rank computes: its own visible GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", rank % torch.cuda.device_count())
    return torch.device("cpu")


def join_ranks(
    rank: int, world_size: int, master_address: str, port: int, timeout_s: float, device: torch.device
) -> DeviceMesh:
    """Join the process group (NCCL on GPUs, gloo on CPUs) and return its one-dimensional mesh.

    Waits at most `timeout_s` for the other ranks; later collectives have the same deadline. Raises `TimeoutError`
    naming the rendezvous when it passes.
    """
    if _is_loopback(master_address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # gloo else binds to whatever the host's name resolves to
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            init_method=f"tcp://{master_address}:{port}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_s),
        )
    except dist.DistStoreError as error:
        raise TimeoutError(
            f"learner rank {rank} waited {timeout_s:g} s for {world_size} ranks at {master_address}:{port}: {error}"
        ) from error
    return init_device_mesh(device.type, (world_size,))


def leave_ranks() -> None:
    """Leave the process group; safe to call twice."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
