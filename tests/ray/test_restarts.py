"""Hosted actors that are killed, stopped or busy, on a real local cluster."""

import asyncio
import os
import signal
import time

import pytest

from actors.pulse import Pulse
from actors.waiting import PeerLost, within

pytestmark = pytest.mark.ray


class Rank:
    """Ordinary methods that block, like a learner rank."""

    def __init__(self) -> None:
        self.steps = 0

    def step(self, seconds: float = 0.0) -> int:
        time.sleep(seconds)
        self.steps += 1
        return self.steps


class Keeper:
    """Asynchronous methods and a child process, like a verifier pool."""

    def __init__(self) -> None:
        self.progress_stamp = 1000

    async def start(self) -> int:
        self.child = await asyncio.create_subprocess_exec("sleep", "600")
        return self.child.pid

    async def rest(self, seconds: float) -> None:
        await within(60, asyncio.sleep(seconds), "keeper waits for the sandman, sample 7")

    async def block(self, seconds: float) -> None:
        time.sleep(seconds)


@pytest.fixture
def hosted(ray_app, tmp_path):
    peers = []

    def host(cls):
        name = f"{cls.__name__.lower()}-{time.monotonic_ns()}"
        peers.append(ray_app.host(cls, name, log_file=str(tmp_path / f"{cls.__name__}.log"), deadline_s=20))
        return peers[-1]

    yield host
    for peer in peers:
        peer.kill()


async def successor(peer, before: Pulse, seconds: float = 20) -> Pulse:
    """The pulse of the process that comes after `before`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            pulse = await within(1.0, peer.pulse(), "test waits for the successor")
            if pulse.process_id != before.process_id:
                return pulse
        except (TimeoutError, PeerLost):
            pass
        await asyncio.sleep(0.1)
    raise AssertionError("nobody came back")


def test_an_actor_tells_its_pulse_while_an_ordinary_method_blocks_it(hosted):
    async def run():
        rank = hosted(Rank)
        await rank.step()
        step = asyncio.ensure_future(rank.step(1.5))
        await asyncio.sleep(0.5)
        began = time.monotonic()
        pulse = await rank.pulse()
        assert time.monotonic() - began < 1.0
        assert [doing.method for doing in pulse.doing] == ["step"]
        assert 0.2 < pulse.doing[0].age_s < 1.5
        assert pulse.stamp == 1
        assert pulse.blocked_s == 0.0
        await step
        assert (await rank.pulse()).stamp == 2

    asyncio.run(run())


def test_a_pulse_tells_what_its_actor_waits_for_and_when_its_event_loop_is_stuck(hosted):
    async def run():
        keeper = hosted(Keeper)
        await keeper.process_id()
        rest = asyncio.ensure_future(keeper.rest(1.0))
        await asyncio.sleep(0.5)
        pulse = await keeper.pulse()
        assert [(wait.what, wait.deadline_s) for wait in pulse.waits] == [
            ("keeper waits for the sandman, sample 7", 60)
        ]
        assert pulse.stamp == 1000
        await rest
        block = asyncio.ensure_future(keeper.block(1.5))
        await asyncio.sleep(0.3)
        await keeper.pulse()
        await asyncio.sleep(0.7)
        assert (await keeper.pulse()).blocked_s > 0.4
        await block
        await keeper.pulse()
        assert (await keeper.pulse()).blocked_s < 1.0

    asyncio.run(run())


def test_a_killed_actor_is_lost_to_the_call_under_way_and_works_again_newly_constructed(hosted):
    async def run():
        rank = hosted(Rank)
        assert await rank.step() == 1
        before = await rank.pulse()
        step = asyncio.ensure_future(rank.step(60.0))
        await asyncio.sleep(0.3)
        os.kill(before.process_id, signal.SIGKILL)
        with pytest.raises(PeerLost, match="died during step"):
            await step
        after = await successor(rank, before)
        assert (after.node_id, after.name) == (before.node_id, before.name)
        assert await rank.step() == 1

    asyncio.run(run())


def test_a_stopped_actor_is_silent_its_state_is_known_and_a_restart_ends_it_with_its_children(hosted, ray_app):
    async def run():
        keeper = hosted(Keeper)
        child = await keeper.start()
        before = await keeper.pulse()
        os.kill(before.process_id, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            await within(1.0, keeper.pulse(), "test waits for a stopped actor")
        assert await ray_app.prod(before) == "T"
        keeper.restart()
        await successor(keeper, before)
        assert await ray_app.prod(before) == "its process is gone"
        assert await keeper.start() != child
        return child

    child = asyncio.run(run())
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{child}") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not os.path.exists(f"/proc/{child}")


def test_the_stacks_of_a_busy_process_arrive_in_its_file(hosted, ray_app, tmp_path):
    async def run():
        rank = hosted(Rank)
        await rank.process_id()
        step = asyncio.ensure_future(rank.step(2.0))
        await asyncio.sleep(0.3)
        assert await ray_app.prod(await rank.pulse()) in "RSD"
        stacks = ""
        for _ in range(20):
            stacks = (tmp_path / "Rank.stacks").read_text()
            if "in step" in stacks:
                break
            await asyncio.sleep(0.1)
        assert "in step" in stacks
        assert await step == 1  # prodding did not disturb it

    asyncio.run(run())
