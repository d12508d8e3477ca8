"""The Ray edge on a real local cluster."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from functools import partial

import numpy as np
import psutil
import pytest

from actors.waiting import DeadlineExceeded, PeerLost

pytestmark = pytest.mark.ray


class Echo:
    """A plain class with async methods."""

    def __init__(self, word: str) -> None:
        self.word = word

    async def say(self, seconds: float = 0.0) -> str:
        print(f"said {self.word}", flush=True)
        await asyncio.sleep(seconds)
        return self.word

    async def complain(self) -> None:
        raise TimeoutError("3 of 4 groups ready")

    async def next_batch(self, timeout_s: float) -> tuple[str, np.ndarray]:
        return "info", np.arange(1000)


class Sum:
    """A plain class with ordinary methods, like a learner rank."""

    def total(self, array: np.ndarray) -> int:
        return int(array.sum())


@pytest.fixture
def echo(ray_app, tmp_path):
    peer = ray_app.host(
        Echo, "echo", "hello", log_file=str(tmp_path / "echo.log"), deadline_s=20, peer=ray_app.BufferPeer
    )
    yield peer
    peer.kill()


def test_actors_of_two_runs_have_names_of_their_own_and_none_has_a_name_twice(ray_app, tmp_path):
    import ray

    def hosted(run: str):
        return ray_app.host(Sum, "sum", run=run, log_file=str(tmp_path / f"{run}.log"), deadline_s=20)

    mine, yours = hosted("mine"), hosted("yours")
    asyncio.run(mine.process_id())
    names = {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
    assert {"rloop/mine/sum", "rloop/yours/sum"} <= names
    with pytest.raises(ray_app.NameTaken, match="rloop/mine/sum"):
        hosted("mine")
    for peer in (mine, yours):
        peer.kill()


def test_a_node_is_told_with_what_it_has_and_what_of_it_is_taken(ray_app, tmp_path):
    ((name, cpus, _, busy, _),) = ray_app.nodes()
    assert ray_app.is_one_host()
    host = partial(ray_app.host, Sum, "taker", deadline_s=30, log_file=str(tmp_path / "taker.log"), num_cpus=2)
    peer = host()
    asyncio.run(peer.process_id())
    assert ray_app.nodes() == [(name, cpus, 0.0, busy + 2, 0.0)]
    peer.kill()


def test_a_file_that_a_node_does_not_see_is_told(ray_app, tmp_path):
    (tmp_path / "there").write_text("")
    ((address, *_),) = ray_app.nodes()
    assert asyncio.run(ray_app.nodes_that_miss(str(tmp_path / "there"))) == []
    assert asyncio.run(ray_app.nodes_that_miss(str(tmp_path / "missing"))) == [address]


def test_a_reservation_is_granted_where_there_is_room_and_an_actor_sits_in_its_part_of_it(ray_app, tmp_path):
    seat, too_large = ray_app.Reservation(1, 0, count=2), ray_app.Reservation(1000, 0)
    deadline = time.monotonic() + 30
    while not seat.granted() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert seat.granted()
    assert not too_large.granted()
    log = str(tmp_path / "sitter.log")
    peer = ray_app.host(Sum, "sitter", deadline_s=30, log_file=log, num_cpus=1, seat=(seat.group, 1))
    asyncio.run(peer.process_id())
    too_large.free()
    seat.free()

    async def serves() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            await peer.process_id()
            await asyncio.sleep(0.1)

    with pytest.raises(PeerLost):  # Ray takes a moment
        asyncio.run(serves())


def test_a_gauge_is_seen_on_the_nodes_metrics_port(ray_app):
    import ray

    board = ray_app.Gauges({"rloop_test": ("set by a test", ["run", "role"])})
    address = next(f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes())
    deadline, seen = time.monotonic() + 60, ""
    while "ray_rloop_test{" not in seen and time.monotonic() < deadline:
        board.set("rloop_test", 42.0, {"run": "demo", "role": "learner"})
        time.sleep(0.5)
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as page:
            seen = page.read().decode()
    (line,) = [line for line in seen.splitlines() if line.startswith("ray_rloop_test{")]
    assert 'run="demo"' in line
    assert 'role="learner"' in line
    assert line.endswith(" 42.0")


def test_a_plain_class_answers_and_its_output_goes_to_its_own_log(echo, tmp_path):
    assert asyncio.run(echo.say()) == "hello"
    assert "said hello" in (tmp_path / "echo.log").read_text()


def test_an_exception_arrives_as_itself_with_its_own_message(echo):
    with pytest.raises(TimeoutError) as caught:
        asyncio.run(echo.complain())
    assert type(caught.value) is TimeoutError
    assert str(caught.value) == "3 of 4 groups ready"


def test_a_batch_goes_from_buffer_to_learner_by_reference(echo, ray_app, tmp_path):
    async def run():
        learner = ray_app.host(Sum, "sum", log_file=str(tmp_path / "sum.log"), deadline_s=20)
        info, batch = await echo.next_batch(1.0)
        assert info == "info"
        assert not isinstance(batch, np.ndarray)
        total = await learner.total(batch)
        learner.kill()
        return total

    assert asyncio.run(run()) == 499500


def test_a_peer_that_does_not_answer_is_named_at_its_deadline(ray_app, tmp_path):
    slow = ray_app.host(Echo, "slow", "x", log_file=str(tmp_path / "slow.log"), deadline_s=3)
    asyncio.run(slow.say())
    with pytest.raises(DeadlineExceeded, match=r"driver waits for slow\.say: no answer in 3 s"):
        asyncio.run(slow.say(60.0))
    slow.kill()


def test_a_killed_process_is_a_lost_peer_within_seconds_and_stays_lost_when_it_must_not_come_back(ray_app, tmp_path):
    mortal = ray_app.host(Echo, "mortal", "x", log_file=str(tmp_path / "mortal.log"), deadline_s=20, comes_back=False)
    os.kill(asyncio.run(mortal.process_id()), signal.SIGKILL)
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(PeerLost, match="mortal died during say"):
            asyncio.run(mortal.say())
    assert time.monotonic() - began < 10


DRIVER = """
import asyncio, sys, time
from actors.ray_settings import prepare_local_cluster
prepare_local_cluster()
from actors import ray_app

class Actor:
    async def hello(self): return 1

with ray_app.cluster(None, False, 4, 100):
    peer = ray_app.host(Actor, "a", log_file=sys.argv[1], deadline_s=30)
    asyncio.run(peer.hello())
    print("up", flush=True)
    time.sleep(600)
"""


def test_no_process_outlives_a_driver_that_is_killed(tmp_path):
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "a.log")], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert driver.stdout is not None
    assert driver.stdout.readline().strip() == "up"
    family = psutil.Process(driver.pid).children(recursive=True)
    assert len(family) >= 3  # gcs, raylet, the actor…
    driver.kill()
    driver.wait(10)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert [process.name() for process in alive] == []
    driver.stdout.close()
