"""Which actors of a run take something of a node, how much, and where they would go: pure arithmetic.

Learner ranks are packed; an engine never leaves its node, engines on CPUs and verifier pools spread. Each counts as a
CPU. In the colocated layout an engine and a learner rank are a pair, on one GPU. Controller, buffer and broadcaster
only coordinate, and take nothing that Ray counts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from cluster.plural import plural

if TYPE_CHECKING:
    from cluster.config import RunConfig

Strategy = Literal["PACK", "SPREAD"]

RANK, ENGINE, POOL = "learner rank", "rollout worker", "verifier pool"
PAIR = "colocated pair"
"""A learner rank and a rollout worker, each of which takes half of what a pair does."""


@dataclass(frozen=True, slots=True)
class Crew:
    """Actors of one kind."""

    role: str
    """In the singular, e.g. `learner rank`."""
    count: int
    cpus: float
    """Of one node, each."""
    gpus: float
    """Of one node, each."""
    strategy: Strategy
    """PACK: together as far as there is room. SPREAD: on as many nodes as there are."""
    fewer: str
    """The setting that asks for less."""

    @property
    def takes(self) -> str:
        """What one of them takes, in words."""
        parts = [f"{plural(self.gpus, 'GPU')}"] if self.gpus else []
        return " and ".join([*parts, *([plural(self.cpus, "CPU")] if self.cpus else [])]) or "nothing that is counted"


@dataclass(frozen=True, slots=True)
class Node:
    """What a node offers."""

    name: str
    cpus: float
    gpus: float
    busy_cpus: float = 0.0
    """Taken by others."""
    busy_gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where everybody would go."""

    homes: dict[str, Counter[str]] = field(default_factory=dict)
    """By node: how many of each role."""
    problems: tuple[str, ...] = ()
    """A sentence per crew that does not fit."""


def asks_for_gpus(config: "RunConfig", nodes: Sequence[Node]) -> bool:
    """Whether engines and learner ranks are to compute on GPUs, by `cluster.device` and what the nodes have."""
    device = config.cluster.device
    return device == "cuda" or (device == "auto" and any(node.gpus for node in nodes))


def crews(config: "RunConfig", on_gpu: bool, learns: bool = True) -> tuple[Crew, ...]:
    """The actors of a run, or of an evaluation, which learns nothing; those that take most first."""
    ranks, workers = config.trainer.ranks, config.actors.rollout_workers
    tensor_parallel = config.rollout.engine.tensor_parallel
    learners = Crew(RANK, ranks * learns, 1, float(on_gpu), "PACK", "trainer.ranks")
    engines = Crew(
        ENGINE,
        workers,
        1,
        float(tensor_parallel * on_gpu),
        "PACK" if on_gpu else "SPREAD",
        "actors.rollout_workers" + (" or rollout.engine.tensor_parallel" if on_gpu else ""),
    )
    pairs = Crew(PAIR, ranks, 2, float(on_gpu), "PACK", "trainer.ranks and actors.rollout_workers")
    pools = Crew(POOL, config.verifier.pools, 1, 0, "SPREAD", "verifier.pools")
    made = [pairs, pools] if learns and config.cluster.layout == "colocated" else [learners, engines, pools]
    return tuple(sorted(made, key=lambda crew: -crew.gpus))


def place(crews: Sequence[Crew], nodes: Sequence[Node]) -> Placement:
    """Give everybody a node, in order, or say who finds none.

    Sizes that divide one another, as GPUs per engine do, always find their places if there are some.
    """
    free = {node.name: [node.gpus - node.busy_gpus, node.cpus - node.busy_cpus] for node in nodes}
    homes: dict[str, Counter[str]] = {node.name: Counter() for node in nodes}
    problems = []
    for crew in crews:
        placed = 0
        while placed < crew.count and (home := _home(crew, free, homes)) is not None:
            free[home][0] -= crew.gpus
            free[home][1] -= crew.cpus
            homes[home][crew.role] += 1
            placed += 1
        if placed < crew.count:
            problems.append(_problem(crew, crew.count - placed, nodes, free))
    return Placement(homes, tuple(problems))


def _home(crew: Crew, free: dict[str, list[float]], homes: dict[str, Counter[str]]) -> str | None:
    """The node for the next one of a crew."""
    fit = [name for name, (gpus, cpus) in free.items() if gpus >= crew.gpus and cpus >= crew.cpus]
    if crew.strategy == "PACK":
        return max(fit, key=lambda name: (homes[name][crew.role], free[name][0], free[name][1]), default=None)
    # The fullest of those with the fewest of them: what is left stays in one piece for who needs a whole node.
    return min(fit, key=lambda name: (homes[name][crew.role], free[name][0], -free[name][1]), default=None)


def _problem(crew: Crew, homeless: int, nodes: Sequence[Node], free: dict[str, list[float]]) -> str:
    kind = "GPUs" if crew.gpus else "CPUs"
    index = 0 if crew.gpus else 1
    left = Counter(f"{free[node.name][index]:g} of {(node.gpus if crew.gpus else node.cpus):g}" for node in nodes)
    rest = ", ".join(f"{each} {kind} on {plural(count, 'node')}" for each, count in left.items())
    everybody = plural(crew.count, crew.role)
    whom = everybody if homeless == crew.count else f"{homeless} of {everybody}"
    return (
        f"no room for {whom}: each takes {crew.takes} of one node, and besides the others there is left "
        f"{rest or 'nothing: there are no nodes'}; lower {crew.fewer}, or add nodes"
    )
