"""How a version's bytes get from learner ranks to an engine's host. One file per way; `choose` picks one."""

from typing import Literal

Transport = Literal["shared_memory", "tcp", "nccl", "cuda_ipc"]


def choose(asked: str, *, on_gpu: bool, one_host: bool) -> Transport:
    """The transport to use.

    Args:
        asked: What `actors.weight_transport` says; `auto` leaves the choice to this.
        on_gpu: Learner and engines compute on GPUs.
        one_host: All of them live on one host.

    Raises:
        ValueError: What is asked for cannot work here.
    """
    if asked == "auto":
        return "nccl" if on_gpu else "shared_memory" if one_host else "tcp"
    if asked in ("nccl", "cuda_ipc") and not on_gpu:
        raise ValueError(f"actors.weight_transport={asked} needs GPUs, there are none; use auto, shared_memory or tcp")
    if asked in ("shared_memory", "cuda_ipc") and not one_host:
        raise ValueError(f"actors.weight_transport={asked} works within one host; use auto, tcp, or nccl on GPUs")
    return asked  # type: ignore[return-value]
