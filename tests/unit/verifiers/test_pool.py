import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

import pytest

from verifiers.pool import VerifierProcesses, VerifierUnavailable
from verifiers.records import ScoreRequest, Verdict

T = TypeVar("T")

PLUGIN = """
import os, sys, time, subprocess
from verifiers.records import Verdict

class Odd:
    name, version = "odd", "7"
    def score(self, request):
        match request.response:
            case "hang": time.sleep(1000)
            case "busy": n = 9; n ** n ** n
            case "die": os._exit(3)
            case "raise": raise KeyError("no such thing")
            case "exit": sys.exit(2)
            case "nothing": return None
            case "nan": return Verdict(float("nan"), "correct", "odd", "7")
            case "print": print("x" * 100_000); os.write(1, b"junk"); assert sys.stdin.read() == ""
            case "child": subprocess.Popen(["sleep", "1000"]); time.sleep(1000)
            case "environment": return Verdict(1.0, "correct", "odd", "7", feedback=" ".join(sorted(os.environ)))
            case "pid": return Verdict(1.0, "correct", "odd", "7", feedback=str(os.getpid()))
        return Verdict(1.0, "correct", "odd", "7")
"""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "odd_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    return "odd_plugin:Odd"


def asks(responses: Iterable[str], reference: str = "") -> list[ScoreRequest]:
    return [ScoreRequest("", response, reference) for response in responses]


def with_pool(use: Callable[[VerifierProcesses], Awaitable[T]], processes: int = 1, recycle_after: int = 2_000) -> T:
    """Run `use` on a started pool, close it, and see that no process is left."""

    async def main() -> T:
        pool = VerifierProcesses(processes, recycle_after)
        await pool.start()
        pids = pool.pids()
        try:
            return await use(pool)
        finally:
            pids += pool.pids()
            await pool.close()
            assert pool.pids() == []
            assert not any(alive(pid) for pid in pids)

    return asyncio.run(main())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def statuses(verdicts: list[Verdict]) -> list[str]:
    return [verdict.status for verdict in verdicts]


def test_verdicts_come_in_the_order_of_the_requests() -> None:
    responses = [f"{i}+1={i + 1}" for i in range(1, 300)]
    requests = [ScoreRequest("", r, f"{i},1>{i + 1 if i % 3 else i}") for i, r in enumerate(responses, start=1)]
    verdicts = with_pool(lambda pool: pool.score("countdown", requests, 5.0), processes=2)
    assert [v.reward for v in verdicts] == [1.0 if i % 3 else 0.0 for i in range(1, 300)]


def test_thousands_of_countdown_answers_are_scored_per_second() -> None:
    requests = asks(["7-3=4;2*5=10;4+10=14"] * 4_000, "3,7,2,5>14")

    async def use(pool: VerifierProcesses) -> float:
        await pool.score("countdown", requests[:1], 5.0)
        began = time.perf_counter()
        await pool.score("countdown", requests, 5.0)
        return time.perf_counter() - began

    assert with_pool(use, processes=2, recycle_after=10_000) < 2.0  # 0.15 s on a free machine


def test_math_runs_in_a_worker() -> None:
    verdicts = with_pool(lambda pool: pool.score("math", asks([r"\boxed{(x+1)^2}", r"\boxed{9}"], "x^2+2x+1"), 10.0))
    assert statuses(verdicts) == ["correct", "wrong"]


@pytest.mark.parametrize("how", ["hang", "busy", "child"])
def test_an_answer_that_hangs_is_killed_at_its_deadline_and_costs_only_itself(odd: str, how: str) -> None:
    began = time.monotonic()
    verdicts = with_pool(lambda pool: pool.score(odd, asks(["fine", how, "fine", "fine"]), 0.5))
    assert statuses(verdicts) == ["correct", "timeout", "correct", "correct"]
    assert verdicts[1] == Verdict(
        None, "timeout", "odd", "7", feedback="no verdict within 0.5 s; its process was killed"
    )
    assert time.monotonic() - began < 10


def test_an_answer_on_which_the_process_dies_twice_is_an_error(odd: str) -> None:
    verdicts = with_pool(lambda pool: pool.score(odd, asks(["fine", "die", "die", "fine"]), 5.0))
    assert statuses(verdicts) == ["correct", "error", "error", "correct"]
    assert verdicts[1].reward is None
    assert "exit status 3" in verdicts[1].feedback


@pytest.mark.parametrize(
    ("how", "feedback"),
    [("raise", "KeyError"), ("exit", "SystemExit: 2"), ("nothing", "returns a Verdict"), ("nan", "finite number")],
)
def test_what_a_verifier_raises_or_returns_wrongly_is_an_error_verdict(odd: str, how: str, feedback: str) -> None:
    verdicts = with_pool(lambda pool: pool.score(odd, asks([how, "fine"]), 5.0))
    assert statuses(verdicts) == ["error", "correct"]
    assert feedback in verdicts[0].feedback


def test_what_a_verifier_prints_does_not_disturb_the_answers(odd: str) -> None:
    assert statuses(with_pool(lambda pool: pool.score(odd, asks(["print", "fine"]), 5.0))) == ["correct"] * 2


def test_workers_see_none_of_our_environment(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLOOP_TEST_SECRET", "42")
    (verdict,) = with_pool(lambda pool: pool.score(odd, asks(["environment"]), 5.0))
    assert set(verdict.feedback.split()) <= {"LANG", "LC_CTYPE", "OMP_NUM_THREADS", "PATH", "PYTHONPATH"}


def test_the_pool_survives_sigkill_of_its_workers(odd: str) -> None:
    async def use(pool: VerifierProcesses) -> list[Verdict]:
        before = pool.pids()
        for pid in before:  # idle ones
            os.kill(pid, signal.SIGKILL)
        first = await pool.score(odd, asks(["fine"] * 4), 5.0)
        scoring = asyncio.create_task(pool.score(odd, asks(["hang", "fine"]), 2.0))
        await asyncio.sleep(0.3)
        for pid in pool.pids():  # busy ones: tried once more, then the deadline strikes
            os.kill(pid, signal.SIGKILL)
        verdicts = [*first, *(await scoring)]
        assert not set(before) & set(pool.pids())
        return verdicts

    assert statuses(with_pool(use, processes=2)) == ["correct"] * 4 + ["timeout", "correct"]


def test_processes_are_recycled(odd: str) -> None:
    async def use(pool: VerifierProcesses) -> list[str]:
        return [(await pool.score(odd, asks(["pid"]), 5.0))[0].feedback for _ in range(6)]

    pids = with_pool(use, recycle_after=2)
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


def test_cancelled_scoring_leaves_a_working_pool(odd: str) -> None:
    async def use(pool: VerifierProcesses) -> list[Verdict]:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.score(odd, asks(["hang"] * 3), 60.0), 0.3)
        return await pool.score(odd, asks(["fine"] * 3), 5.0)

    assert statuses(with_pool(use, processes=2)) == ["correct"] * 3


def test_many_callers_share_the_processes(odd: str) -> None:
    async def use(pool: VerifierProcesses) -> list[list[Verdict]]:
        return await asyncio.gather(*(pool.score(odd, asks(["fine"] * 8), 5.0) for _ in range(20)))

    assert all(statuses(verdicts) == ["correct"] * 8 for verdicts in with_pool(use, processes=2))


def test_a_verifier_that_cannot_be_loaded_raises_and_says_why() -> None:
    async def use(pool: VerifierProcesses) -> list[Verdict]:
        with pytest.raises(VerifierUnavailable, match="did you mean 'exact'"):
            await pool.score("exakt", asks(["1"] * 8, "1"), 5.0)
        return await pool.score("exact", asks(["1"], "1"), 5.0)

    assert statuses(with_pool(use, processes=2)) == ["correct"]


def test_scoring_after_close_is_refused_and_closing_twice_is_safe() -> None:
    async def main() -> None:
        pool = VerifierProcesses(1)
        with pytest.raises(VerifierUnavailable, match="call start"):
            await pool.score("exact", asks(["1"], "1"), 5.0)
        await pool.start()
        await pool.close()
        await pool.close()
        with pytest.raises(VerifierUnavailable, match="before close"):
            await pool.score("exact", asks(["1"], "1"), 5.0)

    asyncio.run(main())


def test_closing_during_scoring_ends_it(odd: str) -> None:
    async def main() -> None:
        pool = VerifierProcesses(2)
        await pool.start()
        scoring = asyncio.create_task(pool.score(odd, asks(["hang"] * 6), 60.0))
        await asyncio.sleep(0.3)
        await pool.close()
        with pytest.raises(VerifierUnavailable):
            await asyncio.wait_for(scoring, 10)
        assert pool.pids() == []

    asyncio.run(main())


PARENT = """
import asyncio
from verifiers.pool import VerifierProcesses
from verifiers.records import ScoreRequest

async def main():
    pool = VerifierProcesses(2)
    await pool.start()
    print(*pool.pids(), flush=True)
    await pool.score("odd_plugin:Odd", [ScoreRequest("", "busy", "")] * 2, 1000.0)

asyncio.run(main())
"""


def test_sigkill_of_the_parent_leaves_no_worker(odd: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment)
    with parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        time.sleep(0.3)  # both are in C code that never reads a pipe
        assert all(alive(pid) for pid in pids)
        parent.kill()
        parent.wait(10)
        assert all(gone_within(pid, 5.0) for pid in pids)
