"""Workers and pools that come and go, on the stage of the supervisor's tests."""

import asyncio
from typing import Any

import pytest

from cluster.pools import Pools
from cluster.staffing import Bounds, Staffing


class Room:
    """Grants so many seats."""

    def __init__(self, seats: int) -> None:
        self.left = seats
        self.asked = 0
        self.held = 0
        self.most = 100

    def seat(self) -> "FakeSeat | None":
        if self.asked == self.most:
            return None
        self.asked += 1
        return FakeSeat(self)


class FakeSeat:
    group, bundle = "group", 0

    def __init__(self, room: Room) -> None:
        self.room, self.mine = room, False

    def granted(self) -> bool:
        if not self.mine and self.room.left > 0:
            self.room.left -= 1
            self.room.held += 1
            self.mine = True
        return self.mine

    def free(self) -> None:
        self.room.asked -= 1
        if self.mine:
            self.room.left += 1
            self.room.held -= 1
            self.mine = False


class Office:
    """A staffing over the stage's one worker; at most three, and as many pools as nodes, three at most."""

    def __init__(self, stage: Any, seats: int) -> None:
        self.stage, self.room = stage, Room(seats)
        self.nodes = 1
        self.draining: set[str] = set()
        self.asked: dict[str, int] = {}
        self.pools = Pools(stage.casting, 1.0)
        bounds = Bounds({"rollout": 1, "verifiers": 1}, {"rollout": 3, "verifiers": 3})
        self.staffing = Staffing(
            stage.workforce,
            self.pools,
            stage.core,
            bounds,
            self.room.seat,
            lambda: self.nodes,
            lambda: self.asked,
            lambda: stage.supervisor.workers_on(self.draining),
            stage.clock,
        )

    async def look(self, times: int = 3) -> None:
        """Look, let what was begun be done, and look again."""
        for _ in range(times):
            self.staffing.look()
            await asyncio.gather(*self.staffing._changes.values())

    @property
    def workers(self) -> list[str]:
        return list(self.stage.workforce.workers)


@pytest.fixture
def office(play):
    def run(scene: Any, seats: int = 0) -> None:
        async def on_stage(stage: Any) -> None:
            office = Office(stage, seats)
            await office.pools.open()
            stage.log.clear()
            await scene(office)

        play(on_stage)

    return run


def test_workers_join_as_there_is_room_and_no_more_than_may(office):
    async def scene(office):
        await office.look()
        assert office.workers == ["rollout-worker-0"]
        assert office.room.asked == 2  # reservations that an autoscaler sees
        office.room.left = 1
        await office.look()
        assert office.workers == ["rollout-worker-0", "rollout-worker-1"]
        assert "broadcaster join rollout-worker-1" in office.stage.log
        assert office.stage.log[-1] == "rollout-worker-1 start"  # weights first, then leases
        office.room.left = 5
        await office.look()
        assert len(office.workers) == 3
        assert (office.room.asked, office.room.held) == (2, 2)
        assert office.staffing.now == {"rollout": 3, "verifiers": 1} == office.staffing.wanted

    office(scene)


def test_a_run_that_is_told_to_be_smaller_lets_the_newest_go_in_good_order(office):
    async def scene(office):
        await office.look()
        office.stage.log.clear()
        office.asked = {"rollout": 2}
        await office.look()
        assert office.workers == ["rollout-worker-0", "rollout-worker-1"]
        assert office.stage.log == [
            "broadcaster leave rollout-worker-2",
            "rollout-worker-2 drain",
            "rollout-worker-2 killed",
            "buffer worker_lost rollout-worker-2",
        ]
        assert (office.room.asked, office.room.held) == (1, 1)  # its seat is free for others
        office.asked = {"rollout": 3}
        await office.look()
        assert office.workers[-1] == "rollout-worker-3"

    office(scene, seats=2)


def test_a_worker_that_does_not_answer_when_it_is_to_leave_is_ended_all_the_same(office):
    async def scene(office):
        await office.look()
        office.stage.worker("rollout-worker-2").raises["drain"] = TimeoutError("no answer")
        office.asked = {"rollout": 1}
        await office.look()
        assert office.workers == ["rollout-worker-0"]
        assert office.stage.log[-4:].count("rollout-worker-2 killed") == 1
        assert office.room.held == 0

    office(scene, seats=2)


def test_workers_leave_a_node_that_is_about_to_go_and_others_come_elsewhere(office):
    async def scene(office):
        await office.look()
        await office.stage.look()
        office.draining = {"another node"}
        await office.look()
        assert len(office.workers) == 3
        office.draining = {"node"}  # where all of them are
        office.stage.log.clear()
        await office.look(times=1)
        assert office.workers == []
        assert sum(text.endswith(" drain") for text in office.stage.log) == 3
        office.draining = set()
        office.room.left = 3
        await office.look()
        assert office.workers == ["rollout-worker-3", "rollout-worker-4", "rollout-worker-5"]

    office(scene, seats=2)


def test_one_that_cannot_come_is_tried_again_later_and_holds_no_seat_meanwhile(office):
    async def scene(office):
        office.stage.casting.unfit = {"rollout-worker-1", "rollout-worker-2"}
        await office.look()
        assert office.workers == ["rollout-worker-0"]
        assert (office.room.asked, office.room.left) == (0, 2)
        assert "nobody could join or leave (RuntimeError: no room on any node)" in office.staffing.note
        office.stage.now += 16
        await office.look()
        assert office.workers == ["rollout-worker-0", "rollout-worker-3", "rollout-worker-4"]
        assert office.staffing.note == ""

    office(scene, seats=2)


def test_a_lost_worker_is_replaced_at_once_only_where_too_few_are_left(office):
    async def scene(office):
        await office.look()
        assert len(office.workers) == 3
        office.room.left = -100  # its node is gone, and there is no other
        for name in ("rollout-worker-1", "rollout-worker-2"):
            office.stage.worker(name).state = "dead"
            await office.stage.look()
            await office.look()
        assert office.workers == ["rollout-worker-0"]
        office.stage.worker("rollout-worker-0").state = "dead"
        await office.stage.look()
        assert office.workers == ["rollout-worker-3"]

    office(scene, seats=2)


def test_no_second_worker_is_asked_for_in_the_place_of_one_that_is_coming(office):
    async def scene(office):
        office.staffing._bounds = Bounds({"rollout": 1, "verifiers": 1}, {"rollout": 1, "verifiers": 1})
        office.stage.worker("rollout-worker-0").state = "dead"
        await office.stage.workforce.dismiss("rollout-worker-0")
        office.stage.casting.open.clear()
        replacing = asyncio.ensure_future(office.stage.workforce.recruit(office.stage.core))
        while not office.stage.workforce.coming:
            await asyncio.sleep(0)
        office.staffing.look()
        assert office.room.asked == 0
        office.stage.casting.open.set()
        await replacing
        await office.look()
        assert (office.workers, office.room.asked) == (["rollout-worker-1"], 0)

    office(scene, seats=2)


def test_where_there_are_no_more_places_none_are_asked_for(office):
    async def scene(office):
        office.room.most = 1
        await office.look()
        assert office.workers == ["rollout-worker-0", "rollout-worker-1"]
        assert office.staffing.wanted["rollout"] == 3

    office(scene, seats=5)


def test_what_a_run_was_told_lowers_how_few_are_enough(office):
    async def scene(office):
        office.staffing._bounds = Bounds({"rollout": 3, "verifiers": 1}, {"rollout": 3, "verifiers": 1})
        await office.look()
        assert office.stage.workforce.least == 3
        office.asked = {"rollout": 1}
        await office.look()
        assert office.stage.workforce.least == 1
        assert len(office.workers) == 1

    office(scene, seats=2)


def test_pools_follow_the_nodes_and_workers_share_them_out(office):
    async def scene(office):
        office.nodes = 2
        await office.look()
        assert list(office.pools.ensembles) == ["verifiers-0", "verifiers-1"]
        assert "rollout-worker-0 use_verifiers" in office.stage.log
        office.nodes = 9
        await office.look()
        assert len(office.pools.ensembles) == 3  # at most
        office.nodes, office.asked = 9, {"verifiers": 1}
        office.stage.log.clear()
        await office.look()
        assert list(office.pools.ensembles) == ["verifiers-0"]
        told, ended = (
            office.stage.log.index(text) for text in ("rollout-worker-0 use_verifiers", "verifiers-2 killed")
        )
        assert told < ended  # nobody is left asking a pool that is gone

    office(scene)
