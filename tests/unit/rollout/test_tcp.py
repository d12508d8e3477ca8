"""Rows fetched from other processes, as an engine's owner fetches them from learner ranks."""

import asyncio
import dataclasses
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from rollout.engine import WeightsMissing
from rollout.transports.tcp import RowServer, fetch
from rollout.weight_landing import WeightLanding
from rollout.weights import RowSource, TensorSpec, WeightLayout, WeightSlot

SCRIPT = str(Path(__file__).with_name("serve_rows.py"))
WHOLE = np.random.default_rng(3).integers(0, 256, 10_000).astype(np.uint8)
Rank = tuple[RowSource, "subprocess.Popen[str]"]


@pytest.fixture
def rank() -> Iterator[Callable[[int], Rank]]:
    processes = []

    def start(number: int) -> Rank:
        process = subprocess.Popen([sys.executable, SCRIPT, str(number)], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout
        return RowSource(**json.loads(process.stdout.readline())), process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def server() -> Iterator[RowServer]:
    made = RowServer("127.0.0.1", timeout_s=0.3)
    yield made
    made.close()
    made.close()


def test_rows_of_two_ranks_land_bit_by_bit_in_one_file(rank):
    sources = tuple(rank(number)[0] for number in range(2))
    layout = WeightLayout((TensorSpec("a", "float16", (3_501,), 0),), 10_000, 2, sources)
    landing = WeightLanding()
    slot = asyncio.run(landing.land(WeightSlot("", layout, 3, side=1)))
    assert slot.layout.sources == ()
    landed = np.fromfile(slot.path, np.uint8)
    np.testing.assert_array_equal(landed[:8_000], WHOLE[:8_000])
    assert not landed[8_000:].any()
    assert asyncio.run(landing.land(slot)) is slot  # here already
    landing.close()


def test_nothing_lands_in_the_file_that_the_engine_computes_with(rank):
    sources = tuple(rank(number)[0] for number in range(2))
    layout = WeightLayout((TensorSpec("a", "float16", (3_501,), 0),), 10_000, 2, sources)
    landing = WeightLanding()
    first, again = (asyncio.run(landing.land(WeightSlot("", layout, 3))).path for _ in range(2))
    assert first == again  # nobody took it
    landing.in_use = first
    second = asyncio.run(landing.land(WeightSlot("", layout, 3))).path  # whoever sends may count its sides anew
    assert second != first
    landing.in_use = second
    assert asyncio.run(landing.land(WeightSlot("", layout, 3, side=1))).path == first
    landing.close()


def test_a_rank_that_is_killed_in_the_middle_is_missing_at_once(rank):
    source, process = rank(9)
    threading.Timer(0.2, process.kill).start()
    began = time.monotonic()
    with pytest.raises(
        WeightsMissing, match=f"rows of version 3 at 127.0.0.1:{source.port}: (the connection ended|.*reset)"
    ):
        fetch_for_ever(source)
    assert time.monotonic() - began < 9


def fetch_for_ever(source: RowSource) -> None:
    while True:
        fetch(source, 3, np.zeros(1 << 30, np.uint8), timeout_s=10)


def test_a_rank_that_is_gone_and_one_that_never_answers_are_named(rank):
    source, process = rank(0)
    process.kill()
    process.wait()
    with pytest.raises(WeightsMissing, match=f"127.0.0.1:{source.port}: .*refused"):
        fetch(source, 3, np.zeros(10_000, np.uint8))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(WeightsMissing, match=f"version 3 at 127.0.0.1:{port}: nothing came for 0.1 s"):
            fetch(RowSource("127.0.0.1", port, "token"), 3, np.zeros(10, np.uint8), timeout_s=0.1)


def test_a_wrong_token_gets_nothing_and_an_unknown_version_an_answer(rank):
    source, _ = rank(0)
    memory = np.zeros(10_000, np.uint8)
    with pytest.raises(WeightsMissing, match="were refused: the token is wrong"):
        fetch(dataclasses.replace(source, token="0" * 64), 3, memory)
    with pytest.raises(WeightsMissing, match=r"were refused: version 4 is not staged here, only \[3\]"):
        fetch(source, 4, memory)
    assert not memory.any()
    assert fetch(source, 3, memory) == 4_001


def test_a_reader_that_stops_reading_costs_the_rank_one_thread_for_its_deadline(server, caplog):
    server.offer(0, 1, np.zeros(1 << 26, np.uint8), [(0, 1 << 26)])
    before = threading.active_count()
    with socket.create_connection((server.source.host, server.source.port)) as stopped:
        from rollout.transports import tcp

        challenge = stopped.recv(16)
        stopped.sendall(tcp._ASK.pack(tcp._proof(server.source.token, challenge), 1))
        deadline = time.monotonic() + 10
        while "did not take all of its weights" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    memory = np.ones(1 << 26, np.uint8)
    assert fetch(server.source, 1, memory) == 1 << 26  # others are served as before
    assert not memory.any()
    assert threading.active_count() <= before + 1


def test_a_frame_outside_of_the_file_is_refused(server):
    server.offer(0, 1, WHOLE, [(0, 10_000)])
    with pytest.raises(WeightsMissing, match="bytes 0 to 10000 are outside of a file of 9999"):
        fetch(server.source, 1, np.zeros(9_999, np.uint8))


def test_what_is_withdrawn_or_replaced_is_not_served_any_more(server):
    server.offer(0, 1, WHOLE, [(0, 10)])
    server.offer(1, 2, WHOLE, [(0, 10)])
    server.withdraw(0)
    with pytest.raises(WeightsMissing, match=r"only \[2\]"):
        fetch(server.source, 1, np.zeros(10, np.uint8))
