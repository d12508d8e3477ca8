"""Thousands of runs under faults with nothing wrong, and every planted bug found; then the parts of the simulator."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checker import Checker, Violation
from disk import Excavation, Mount, SimDisk
from faults import Faults
from many_seeds import find_bugs, run_many
from scenario import Scenario
from trial import rules
from virtual_loop import Crash, Deadlock, OutOfTime, VirtualLoop
from world import World

from rollout.storage import InUse

SEEDS = 2000
SEEDS_PER_BUG = 1500


@pytest.mark.timeout(2400)  # in `make test` it gets what others leave of the machine
def test_thousands_of_runs_under_faults_end_well():
    tally = run_many(SEEDS, 0, os.cpu_count() or 1, tell=lambda tally: None)
    print(tally)
    assert not [f"seed {o.seed}: {o.violation}" for o in tally.violations]
    for kind in ("power loss", "death of buffer", "death of controller", "death of learner", "death of broadcaster"):
        assert tally.faults[kind] > SEEDS / 20, kind
    for kind in (
        "stop of buffer",
        "stop of worker",
        "disk full",
        "short write",
        "write torn",
        "write holed",
        "weights refused",
        "death of a zombie's successor",
    ):
        assert tally.faults[kind] > SEEDS / 100, kind


@pytest.mark.timeout(2400)  # in `make test` it gets what others leave of the machine
def test_every_planted_bug_is_found():
    found = {name: seeds for name, seeds, _ in find_bugs(SEEDS_PER_BUG, os.cpu_count() or 1)}
    print(found)
    assert not [name for name, seeds in found.items() if seeds is None]
    assert len(found) >= 12


def test_a_seed_is_the_same_schedule_in_every_process():
    def digest(seed: int, hash_seed: int) -> str:
        command = [sys.executable, str(Path(__file__).with_name("many_seeds.py")), "--seed", str(seed)]
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": path}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
        return run.stdout.splitlines()[-1].split()[1]

    first, again, other = digest(17, 1), digest(17, 2), digest(18, 1)
    assert first == again != other


# -- the loop -----------------------------------------------------------------------------------------------------


def test_time_is_virtual_and_a_wait_costs_nothing():
    loop = VirtualLoop(0)
    loop.run(asyncio.sleep(3600), loop.process("p"), deadline=4000)
    assert loop.time() == 3600


def test_a_dead_process_runs_nothing_more_not_even_finally():
    loop, said = VirtualLoop(0), []

    async def victim() -> None:
        try:
            await asyncio.sleep(2)
        finally:
            said.append("finally")

    async def main() -> None:
        loop.create_task(victim(), context=(process := loop.process("victim")).context)
        await asyncio.sleep(1)
        process.kill()
        await asyncio.sleep(5)
        assert not said

    loop.run(main(), loop.process("main"), deadline=10)


def test_a_stopped_process_does_later_what_it_had_to_do():
    loop, said = VirtualLoop(0), []

    async def sleeper() -> None:
        for number in range(3):
            await asyncio.sleep(1)
            said.append((number, loop.time()))

    async def main() -> None:
        loop.create_task(sleeper(), context=(process := loop.process("sleeper")).context)
        await asyncio.sleep(0.5)
        process.stopped = True
        await asyncio.sleep(9.5)
        assert not said
        loop.resume(process)
        await asyncio.sleep(5)

    loop.run(main(), loop.process("main"), deadline=20)
    assert said == [(0, 10.0), (1, 11.0), (2, 12.0)]


def test_a_wait_that_nothing_can_end_is_named():
    loop = VirtualLoop(0)
    with pytest.raises(Deadlock, match=r"nothing is ready and no timer is set; waiting: main: .*wait"):
        loop.run(asyncio.Event().wait(), loop.process("main"), deadline=10)
    with pytest.raises(OutOfTime, match="not done after 10 virtual seconds"):
        loop.run(asyncio.sleep(11), loop.process("other"), deadline=10)


# -- the disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def disk():
    return SimDisk(0, lambda: 0.0, Faults(lambda: 0.0))


def test_what_was_synced_stays_and_the_rest_has_any_fate(disk):
    loop, fates = VirtualLoop(0), set()
    for number in range(60):
        process = loop.process(f"writer-{number}")
        file = Mount(disk, process).create(f"file-{number}")
        file.write(b"durable")
        file.sync()
        file.write(b"x" * 200)
        process.kill()
        content = bytes(Excavation(disk).read(f"file-{number}"))
        assert content[:7] == b"durable"
        rest = content[7:]
        fates.add("lost" if not rest else "kept" if rest == b"x" * 200 else "torn" if b"\0" not in rest else "holed")
        with pytest.raises(Crash):
            file.write(b"more")
    assert fates == {"lost", "kept", "torn", "holed"}


def test_a_lock_goes_with_its_holder(disk):
    loop = VirtualLoop(0)
    holder, other = loop.process("holder"), loop.process("other")
    Mount(disk, holder).lock("lock")
    with pytest.raises(InUse, match="held by holder"):
        Mount(disk, other).lock("lock")
    holder.kill()
    Mount(disk, other).lock("lock")


def test_a_full_disk_takes_a_part_at_most(disk):
    file = Mount(disk, VirtualLoop(0).process("writer")).create("file")
    disk.full_until = 1.0
    with pytest.raises(OSError, match="no space left"):
        file.write(b"x" * 100)
    assert len(disk.files["file"].content) <= 100


# -- the checker --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is over, and what it should have been."""
    scenario = Scenario.draw(17)
    world = World(scenario, tmp_path_factory.mktemp("scratch"))
    world.run()
    return world, rules(scenario)


def test_a_run_that_went_well_is_called_so(finished):
    world, wanted = finished
    Checker(Excavation(world.disk), wanted, world.promises).check()


def test_a_record_that_is_missing_is_a_violation(finished):
    world, wanted = finished
    log = world.disk.files["journal/events.log"]
    whole = bytes(log.content)
    end = whole.rindex(b'["Trained"')
    log.content = bytearray(whole[: whole.rindex(b"[", 0, end - 4)])
    try:
        with pytest.raises((Violation, AssertionError)):
            Checker(Excavation(world.disk), wanted, world.promises).check()
    finally:
        log.content = bytearray(whole)


def test_a_promise_that_was_not_kept_is_a_violation(finished):
    world, wanted = finished
    delivery = (*world.promises.finished[0][:2], 99)
    world.promises.finished.append(delivery)
    try:
        with pytest.raises(Violation, match="was taken, and is not in the journal"):
            Checker(Excavation(world.disk), wanted, world.promises).check()
    finally:
        world.promises.finished.remove(delivery)
