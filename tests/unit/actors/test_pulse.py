"""What a process says of itself."""

import asyncio
import time

import pytest
from ray import cloudpickle

from actors.pulse import Vitals, with_vitals
from verifiers.pool import VerifierProcesses


class Mill:
    """Ordinary and asynchronous methods, public and private."""

    def __init__(self, vitals: Vitals) -> None:
        self.vitals = vitals
        self.seen = []

    def grind(self, grain: str) -> str:
        """Grind."""
        self._look()
        return f"{grain} flour"

    async def rest(self, hours: int = 1) -> int:
        await self._sleep()
        return hours

    async def _sleep(self) -> None:
        self._look()

    def breaks(self) -> None:
        raise ValueError("broken")

    def _look(self) -> None:
        self.seen.append([doing.method for doing in self.vitals.pulse("node").doing])


class Watched:
    """Stands for a mill."""

    def __init__(self) -> None:
        self.vitals = Vitals()
        self.hosted = Mill(self.vitals)

    locals().update(with_vitals(Mill))


def test_public_methods_are_known_while_they_run_and_counted_when_they_have():
    mill = Watched()
    assert mill.grind("rye") == "rye flour"
    assert asyncio.run(mill.rest(hours=8)) == 8
    assert mill.hosted.seen == [["grind"], ["rest"]]
    assert mill.vitals.pulse("node").doing == ()
    assert mill.vitals.pulse("node", progress_stamp=40).stamp == 42


def test_a_method_that_fails_has_ended_too():
    mill = Watched()
    with pytest.raises(ValueError, match="broken"):
        mill.breaks()
    assert mill.vitals.pulse("node").doing == ()


def test_who_calls_such_an_object_does_not_import_what_it_does():
    pickled = cloudpickle.dumps(with_vitals(VerifierProcesses))
    assert b"verifiers.pool" not in pickled


def test_a_wrapped_method_keeps_its_name_and_its_words():
    assert (Watched.grind.__name__, Watched.grind.__doc__) == ("grind", "Grind.")
    assert asyncio.iscoroutinefunction(Watched.rest)


def test_an_event_loop_that_does_not_turn_is_noticed_until_it_turns_again():
    now = [100.0]
    vitals = Vitals(lambda: now[0])

    async def run() -> None:
        vitals.follow(asyncio.get_running_loop())
        assert vitals.pulse("node").blocked_s == 0.0
        now[0] += 5  # nothing was awaited since: to the loop, that is being blocked
        assert vitals.pulse("node").blocked_s == 5.0
        await asyncio.sleep(0)
        assert vitals.pulse("node").blocked_s == 0.0

    asyncio.run(run())
    now[0] += 5
    assert vitals.pulse("node").blocked_s == 0.0  # a loop that is closed blocks nobody


def test_a_pulse_tells_one_process_from_the_next_by_its_birth():
    born = Vitals().pulse("node").born
    assert born < time.time()
    assert Vitals().pulse("node").born == born
