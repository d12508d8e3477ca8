"""Reservations of a run, granted by a cluster on paper."""

import asyncio
from typing import Any

import pytest

from cluster.placement import ENGINE, PAIR, POOL, RANK, Crew
from cluster.seating import Seating


class PaperCluster:
    """Grants what is asked for as long as there are GPUs; others have taken the rest."""

    def __init__(self, gpus: float) -> None:
        self.gpus = gpus
        self.asked: list[tuple[float, float, int]] = []
        self.freed = 0

    def Reservation(self, cpus: float, gpus: float, count: int = 1) -> Any:
        self.asked.append((cpus, gpus, count))
        granted = gpus * count <= self.gpus
        self.gpus -= gpus * count * granted
        return PaperReservation(self, f"group {len(self.asked)}", granted)


class PaperReservation:
    bundle = 0

    def __init__(self, cluster: PaperCluster, group: str, there: bool) -> None:
        self.cluster, self.group, self.there = cluster, group, there

    def granted(self) -> bool:
        return self.there

    def free(self) -> None:
        self.cluster.freed += 1


RANKS = Crew(RANK, 2, 1, 1, "PACK", "trainer.ranks")
ENGINES = Crew(ENGINE, 2, 1, 8, "PACK", "actors.rollout_workers")
PAIRS = Crew(PAIR, 2, 2, 1, "PACK", "trainer.ranks and actors.rollout_workers")
POOLS = Crew(POOL, 1, 1, 0, "SPREAD", "verifier.pools")


def seated(cluster: PaperCluster, *crews: Crew) -> Seating:
    seating = Seating(crews, cluster, 0.0)
    asyncio.run(seating.reserve())
    return seating


def test_who_takes_most_of_a_node_is_asked_for_first_and_ranks_all_together() -> None:
    cluster = PaperCluster(gpus=18)
    seating = seated(cluster, ENGINES, RANKS, POOLS)
    assert cluster.asked == [(1, 8, 1), (1, 8, 1), (1, 1, 2)]
    assert seating.ranks == "group 3"
    first = [seating.first(), seating.first()]
    assert [seat and seat.group for seat in first] == ["group 1", "group 2"]
    seating.first()  # for one that replaces another: room is asked for anew
    assert cluster.asked[3:] == [(1, 8, 1)]


def test_engines_on_cpus_are_placed_by_ray_and_ask_for_room_only_when_they_join_later() -> None:
    cluster = PaperCluster(gpus=0)
    on_cpus = Crew(ENGINE, 2, 1, 0, "SPREAD", "actors.rollout_workers")
    seating = seated(cluster, Crew(RANK, 1, 1, 0, "PACK", "trainer.ranks"), on_cpus, POOLS)
    assert seating.first() is None
    assert cluster.asked == [(1, 0, 1)]
    assert seating.further() is not None
    assert cluster.asked == [(1, 0, 1), (1, 0, 1)]


def test_a_place_beside_a_rank_goes_to_one_worker_at_a_time() -> None:
    seating = seated(PaperCluster(gpus=2), PAIRS, POOLS)
    assert seating.takes(RANK) == seating.takes(ENGINE) == (1, 0.5)
    first, second = seating.first(), seating.further()
    assert first
    assert second
    assert (first.group, first.bundle, second.bundle) == (seating.ranks, 0, 1)
    assert seating.further() is None
    with pytest.raises(RuntimeError, match="no learner rank is left without a rollout worker"):
        seating.first()
    first.free()
    first.free()
    assert seating.first() is first  # for who takes its place
    assert seating.further() is None


def test_places_that_others_took_first_are_said_to_be_missing_and_not_asked_for_any_longer() -> None:
    cluster = PaperCluster(gpus=10)
    with pytest.raises(RuntimeError) as error:
        seated(cluster, ENGINES, RANKS)
    assert str(error.value) == (
        "no room for 2 rollout workers within actors.start_timeout_s=0: each takes 8 GPUs and 1 CPU of one node, and "
        "others were faster; lower actors.rollout_workers, or add nodes"
    )
    assert cluster.freed == 2


def test_nobody_learns_in_an_evaluation() -> None:
    cluster = PaperCluster(gpus=8)
    seated(cluster, Crew(ENGINE, 1, 1, 8, "PACK", ""), Crew(RANK, 0, 1, 1, "PACK", ""))
    assert cluster.asked == [(1, 8, 1)]
