"""Room for a run in a cluster that grows, on paper."""

import asyncio
from typing import Any

import pytest

from cluster.config import RunConfig
from cluster.placement import Node
from cluster.room import crews_in, nodes_with_room, require_shared, uses_gpus
from cluster.settings import Refused


class GrowingCluster:
    """Has one node more each time that seats are looked at, up to `most`."""

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 1
        self.seats: list[Any] = []

    def nodes(self) -> list[tuple[str, float, float, float, float]]:
        taken = sum(seat.granted() for seat in self.seats)
        return [(f"n{i}", 1.0, 0.0, float(i < taken), 0.0) for i in range(self.count)]

    def Reservation(self, cpus: float, gpus: float) -> "PaperSeat":
        self.seats.append(PaperSeat(self, len(self.seats)))
        return self.seats[-1]


class PaperSeat:
    def __init__(self, cluster: GrowingCluster, index: int) -> None:
        self.cluster, self.index = cluster, index

    def granted(self) -> bool:
        return self.index < self.cluster.count

    def free(self) -> None:
        self.cluster.seats.remove(self)
        self.cluster.count = min(self.cluster.most, self.cluster.count + 1)


def config(**cluster: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"data": {"task": "countdown"}, "actors": {"rollout_workers": 2}, "trainer": {"ranks": 1}, "cluster": cluster}
    )


def wait(cluster: GrowingCluster, config: RunConfig) -> tuple[list[Node], list[str]]:
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        cluster.count = min(cluster.most, cluster.count + 1)

    return asyncio.run(nodes_with_room(config, cluster, tell, look_every_s=0.01)), told


def test_without_patience_a_cluster_is_taken_as_it_is_and_who_finds_no_room_is_told():
    there, told = wait(GrowingCluster(most=3), config())
    assert (len(there), told) == (1, [])
    with pytest.raises(Refused, match="no room for"):
        crews_in(config(), there)


def test_with_patience_places_are_asked_for_until_they_are_there():
    cluster = GrowingCluster(most=4)
    there, told = wait(cluster, config(wait_for_nodes_s=60))
    assert [text.split(";")[0] for text in told] == [f"nodes: room for {number} of 4" for number in (1, 2, 3)]
    assert cluster.seats == []  # given back for those who come
    assert {crew.role for crew in crews_in(config(), there)} == {"learner rank", "rollout worker", "verifier pool"}


def test_patience_has_an_end():
    cluster = GrowingCluster(most=2)
    there, _ = wait(cluster, config(wait_for_nodes_s=0.1))
    assert cluster.seats == []
    with pytest.raises(Refused, match="no room for 1 of 2 rollout workers"):
        crews_in(config(), there)


class TwoHosts:
    def __init__(self, sees: bool) -> None:
        self.sees, self.asked = sees, ""

    def is_one_host(self) -> bool:
        return False

    async def nodes_that_miss(self, file: str) -> list[str]:
        self.asked = file
        return [] if self.sees else ["10.0.0.2"]


def test_a_run_directory_that_a_node_does_not_see_is_refused(tmp_path):
    shared, split = TwoHosts(sees=True), TwoHosts(sees=False)
    asyncio.run(require_shared(tmp_path / "config.yaml", shared))
    assert shared.asked == str(tmp_path / "config.yaml")
    with pytest.raises(Refused, match=rf"{tmp_path} is not seen from 10\.0\.0\.2"):
        asyncio.run(require_shared(tmp_path / "config.yaml", split))


@pytest.mark.parametrize(
    ("device", "gpus", "used"), [("cpu", 8, False), ("cuda", 0, True), ("auto", 0, False), ("cuda", 8, True)]
)
def test_a_run_uses_the_gpus_that_it_is_told_to_even_those_that_are_yet_to_come(device, gpus, used):
    assert uses_gpus(config(device=device), [Node("n", 8, gpus)]) == used
