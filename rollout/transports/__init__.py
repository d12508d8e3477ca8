"""How a version's bytes get from learner ranks to an engine. `choose` picks the way.

Two let the engine's host have them in a file, `shared_memory` and `tcp`; with two the learner pushes them into the
engine's own processes, `nccl` and `ipc`.
"""

from typing import Literal

Transport = Literal["shared_memory", "tcp", "nccl", "ipc"]

PUSHED: tuple[Transport, ...] = ("nccl", "ipc")
"""Named like the weight-transfer engines of vLLM that receive them."""


def choose(
    asked: Literal["auto", "shared_memory", "tcp", "nccl", "ipc"],
    *,
    one_host: bool,
    on_gpu: bool = False,
    shared_gpu: bool = False,
) -> Transport:
    """The transport to use: what `actors.weight_transport` says, or for `auto` a way through files that works.

    Args:
        one_host: Learner and engines all live on one host.
        on_gpu: Learner and engines compute on GPUs.
        shared_gpu: They do so on one and the same GPU.

    Raises:
        ValueError: What is asked for does not work there.
    """
    if asked == "auto":  # never the ways that have not been run yet
        return "shared_memory" if one_host else "tcp"
    if asked == "shared_memory" and not one_host:
        raise ValueError("actors.weight_transport=shared_memory works within one host, got several; use auto or tcp")
    if asked == "nccl" and (not on_gpu or shared_gpu):
        raise ValueError(
            "actors.weight_transport=nccl works between different GPUs, got "
            f"{'one that learner and engine share' if on_gpu else 'none'}; use auto"
        )
    if asked == "ipc" and not shared_gpu:
        raise ValueError("actors.weight_transport=ipc works where learner and engine share one GPU; use auto")
    return asked
