"""How a version's bytes get from learner ranks to an engine's host. `choose` picks the way."""

from typing import Literal

Transport = Literal["shared_memory", "tcp"]


def choose(asked: Literal["auto", "shared_memory", "tcp"], *, one_host: bool) -> Transport:
    """The transport to use: what `actors.weight_transport` says, or for `auto` the faster one that works.

    Raises:
        ValueError: Shared memory is asked for, and learner and engines do not all live on one host.
    """
    if asked == "auto":
        return "shared_memory" if one_host else "tcp"
    if asked == "shared_memory" and not one_host:
        raise ValueError("actors.weight_transport=shared_memory works within one host, got several; use auto or tcp")
    return asked
