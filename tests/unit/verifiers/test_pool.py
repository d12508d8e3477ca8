import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from verifiers.nursery import VerifierUnavailable
from verifiers.pool import VerifierProcesses
from verifiers.records import ScoreRequest, Verdict
from verifiers.spec import VerifierSpec

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
            case "die once" if not os.path.exists(request.reference): open(request.reference, "w"); os._exit(3)
            case "raise": raise KeyError("no such thing")
            case "exit": sys.exit(2)
            case "nothing": return None
            case "nan": return Verdict(float("nan"), "correct", "odd", "7")
            case "print": print("x" * 100_000); os.write(1, b"junk"); assert sys.stdin.read() == ""
            case "child": subprocess.Popen(["sleep", "1000"]); time.sleep(1000)
            case "daemon": return said(subprocess.Popen(["sleep", "1000"], start_new_session=True).pid)
            case "memory": return said(len(bytearray(8 << 30)))
            case "slow": time.sleep(0.6)
            case "nap": time.sleep(0.1)
            case echo if echo.startswith("echo"): return said(echo.removeprefix("echo "))
            case "environment": return said(" ".join(sorted(os.environ)))
            case "pid": return said(os.getpid())
            case "when": return said(time.monotonic())
        return said("")

class Leisurely(Odd):
    slow_s = 40.0

class Opened(Odd):
    def __init__(self, opens=True):
        self.opens, self.opened_by = opens, 0
    def open(self):
        time.sleep(0.5)
        self.opened_by = os.getpid() if self.opens else 1 // 0
    def score(self, request):
        return said(self.opened_by == os.getpid())

def said(what):
    return Verdict(1.0, "correct", "odd", "7", feedback=str(what))
"""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "odd_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    return "odd_plugin:Odd"


def asks(responses: Iterable[str], reference: str = "") -> list[ScoreRequest]:
    return [ScoreRequest("", response, reference) for response in responses]


def spec(name: str, timeout_s: float, concurrency: int = 32) -> VerifierSpec:
    return VerifierSpec(name, timeout_s=timeout_s, concurrency=concurrency)


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
    verdicts = with_pool(lambda pool: pool.score(VerifierSpec("countdown", timeout_s=5.0), requests), processes=2)
    assert [v.reward for v in verdicts] == [1.0 if i % 3 else 0.0 for i in range(1, 300)]


def test_math_runs_in_a_worker() -> None:
    verdicts = with_pool(
        lambda pool: pool.score(
            VerifierSpec("math", timeout_s=10.0), asks([r"\boxed{(x+1)^2}", r"\boxed{9}"], "x^2+2x+1")
        )
    )
    assert statuses(verdicts) == ["correct", "wrong"]


@pytest.mark.parametrize("how", ["hang", "busy", "child"])
def test_an_answer_that_hangs_is_killed_at_its_deadline_and_costs_only_itself(odd: str, how: str) -> None:
    began = time.monotonic()
    verdicts = with_pool(lambda pool: pool.score(spec(odd, 0.5), asks(["fine", how, "fine", "fine"])))
    assert statuses(verdicts) == ["correct", "timeout", "correct", "correct"]
    why = "no verdict within 0.5 s; its process was killed"
    assert verdicts[1] == Verdict(None, "timeout", "odd", "7", feedback=why, milliseconds=500.0)
    assert time.monotonic() - began < 10


def test_after_a_death_an_answer_gets_a_process_that_nothing_else_can_have_spoiled(odd: str, tmp_path: Path) -> None:
    async def use(pool: VerifierProcesses) -> list[Verdict]:
        await pool.score(spec(odd, 2.0), asks(["fine"] * 4))
        _, spoiled, _ = pool.pids()  # the last idle one is asked first
        os.kill(spoiled, signal.SIGSTOP)
        return await pool.score(spec(odd, 2.0), asks(["die once"], reference=str(tmp_path / "died")))

    assert statuses(with_pool(use, processes=2)) == ["correct"]


def test_an_answer_on_which_the_process_dies_twice_is_an_error(odd: str) -> None:
    verdicts = with_pool(lambda pool: pool.score(spec(odd, 5.0), asks(["fine", "die", "die", "fine"])))
    assert statuses(verdicts) == ["correct", "error", "error", "correct"]
    assert verdicts[1].reward is None
    assert "exit status 3" in verdicts[1].feedback


@pytest.mark.parametrize(
    ("how", "feedback"),
    [("raise", "KeyError"), ("exit", "SystemExit: 2"), ("nothing", "returns a Verdict"), ("nan", "finite number")],
)
def test_what_a_verifier_raises_or_returns_wrongly_is_an_error_verdict(odd: str, how: str, feedback: str) -> None:
    verdicts = with_pool(lambda pool: pool.score(spec(odd, 5.0), asks([how, "fine"])))
    assert statuses(verdicts) == ["error", "correct"]
    assert feedback in verdicts[0].feedback


def test_what_a_verifier_prints_does_not_disturb_the_answers(odd: str) -> None:
    assert statuses(with_pool(lambda pool: pool.score(spec(odd, 5.0), asks(["print", "fine"])))) == ["correct"] * 2


def test_workers_see_none_of_our_environment(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLOOP_TEST_SECRET", "42")
    (verdict,) = with_pool(lambda pool: pool.score(spec(odd, 5.0), asks(["environment"])))
    assert set(verdict.feedback.split()) <= {"LANG", "LC_CTYPE", "OMP_NUM_THREADS", "PATH", "PYTHONPATH"}


def test_the_pool_survives_sigkill_of_its_workers(odd: str) -> None:
    async def use(pool: VerifierProcesses) -> list[Verdict]:
        await pool.score(spec(odd, 2.0), asks(["fine"] * 4))
        template, *before = pool.pids()
        for pid in before:  # idle ones
            os.kill(pid, signal.SIGKILL)
        first = await pool.score(spec(odd, 2.0), asks(["fine"] * 4))
        scoring = asyncio.create_task(pool.score(spec(odd, 2.0), asks(["hang", "fine"])))
        await asyncio.sleep(0.3)
        for pid in set(pool.pids()) - {template}:  # a busy one: tried once more, then the deadline strikes
            os.kill(pid, signal.SIGKILL)
        verdicts = [*first, *(await scoring)]
        assert not set(before) & set(pool.pids())
        return verdicts

    assert statuses(with_pool(use, processes=2)) == ["correct"] * 4 + ["timeout", "correct"]


def test_processes_are_recycled(odd: str) -> None:
    async def use(pool: VerifierProcesses) -> list[str]:
        return [(await pool.score(spec(odd, 5.0), asks(["pid"])))[0].feedback for _ in range(6)]

    pids = with_pool(use, recycle_after=2)
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


def test_cancelled_scoring_leaves_a_working_pool(odd: str) -> None:
    async def use(pool: VerifierProcesses) -> list[Verdict]:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.score(spec(odd, 60.0), asks(["hang"] * 3)), 0.3)
        return await pool.score(spec(odd, 5.0), asks(["fine"] * 3))

    assert statuses(with_pool(use, processes=2)) == ["correct"] * 3


def test_many_callers_share_the_processes(odd: str) -> None:
    async def use(pool: VerifierProcesses) -> list[list[Verdict]]:
        return await asyncio.gather(*(pool.score(spec(odd, 5.0), asks(["fine"] * 8)) for _ in range(20)))

    assert all(statuses(verdicts) == ["correct"] * 8 for verdicts in with_pool(use, processes=2))


def test_a_verifier_that_cannot_be_loaded_raises_and_says_why() -> None:
    async def use(pool: VerifierProcesses) -> list[Verdict]:
        with pytest.raises(VerifierUnavailable, match="did you mean 'exact'"):
            await pool.score(VerifierSpec("exakt", timeout_s=5.0), asks(["1"] * 8, "1"))
        return await pool.score(VerifierSpec("exact", timeout_s=5.0), asks(["1"], "1"))

    assert statuses(with_pool(use, processes=2)) == ["correct"]


def test_scoring_after_close_is_refused_and_closing_twice_is_safe() -> None:
    async def main() -> None:
        pool = VerifierProcesses(1)
        with pytest.raises(VerifierUnavailable, match="call start"):
            await pool.score(VerifierSpec("exact", timeout_s=5.0), asks(["1"], "1"))
        await pool.start()
        await pool.close()
        await pool.close()
        with pytest.raises(VerifierUnavailable, match="before close"):
            await pool.score(VerifierSpec("exact", timeout_s=5.0), asks(["1"], "1"))

    asyncio.run(main())


def test_closing_during_scoring_ends_it(odd: str) -> None:
    async def main() -> None:
        pool = VerifierProcesses(2)
        await pool.start()
        scoring = asyncio.create_task(pool.score(spec(odd, 60.0), asks(["hang"] * 6)))
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
from verifiers.spec import VerifierSpec

ASKED = [ScoreRequest("", "busy", ""), ScoreRequest("", "child", "")]

async def main():
    pool = VerifierProcesses(2)
    await pool.start()
    scoring = asyncio.create_task(pool.score(VerifierSpec("odd_plugin:Odd", timeout_s=600.0), ASKED))
    while len(pool.pids()) < 3:
        await asyncio.sleep(0.01)
    print(*pool.pids(), flush=True)
    await scoring

asyncio.run(main())
"""


def test_sigkill_of_the_parent_leaves_no_worker(odd: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment)
    with parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3
        time.sleep(0.3)  # one is in C code that never reads a pipe, one has started a process
        pids += [process.pid for process in psutil.Process(pids[0]).children(recursive=True)]
        assert all(alive(pid) for pid in pids)
        parent.kill()
        parent.wait(10)
        assert all(gone_within(pid, 20.0) for pid in pids)


def test_answers_that_hang_give_their_place_away(odd: str) -> None:
    """One place, five answers that compute for ever: an honest one does not wait until their deadlines."""

    async def use(pool: VerifierProcesses) -> list[Verdict]:
        hanging = asyncio.create_task(pool.score(spec(odd, 60.0), asks(["busy"] * 5)))
        await asyncio.sleep(0.05)
        verdicts = await pool.score(spec(odd, 60.0), asks(["fine"]))
        assert not hanging.done()
        hanging.cancel()
        return verdicts

    assert statuses(with_pool(use)) == ["correct"]


def test_what_is_slow_but_ends_in_time_gets_its_verdict(odd: str) -> None:
    verdicts = with_pool(lambda pool: pool.score(spec(odd, 20.0), asks(["slow", "fine", "slow"])))
    assert statuses(verdicts) == ["correct"] * 3
    assert [v.milliseconds > 500 for v in verdicts] == [True, False, True]


def test_an_answer_that_waits_gives_its_place_away_at_once_and_one_that_computes_does_not(odd: str) -> None:
    async def use(pool: VerifierProcesses) -> None:
        leisurely = spec("odd_plugin:Leisurely", 60.0)
        waits = [*pool.submit(leisurely, asks(["hang"] * 3)), *pool.submit(leisurely, asks(["child"] * 2))]
        assert statuses(await asyncio.wait_for(pool.score(leisurely, asks(["fine"])), 20)) == ["correct"]
        assert not any(verdict.done() for verdict in waits)
        pool.submit(leisurely, asks(["busy"]))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.score(leisurely, asks(["fine"])), 1.5)

    with_pool(use)


def test_a_process_whose_answer_waited_and_came_is_used_again(odd: str) -> None:
    async def use(pool: VerifierProcesses) -> list[list[int]]:
        leisurely = spec("odd_plugin:Leisurely", 60.0)
        pids = []
        for _ in range(2):
            await pool.score(leisurely, asks(["slow"]))
            pids.append(pool.pids())
        return pids

    first, second = with_pool(use)
    assert first == second
    assert len(first) == 2  # template and one process


def test_answers_keep_their_verdicts_when_one_before_them_waited(odd: str) -> None:
    """What had been handed to its process goes to another; the first process must not answer for it a second time."""

    responses = ["nap" if number % 10 == 0 else f"echo {number}" for number in range(300)]
    verdicts = with_pool(lambda pool: pool.score(spec("odd_plugin:Leisurely", 60.0), asks(responses)), processes=2)
    assert [verdict.feedback for verdict in verdicts] == ["" if n % 10 == 0 else str(n) for n in range(300)]


def test_no_more_answers_of_a_verifier_are_under_way_than_it_allows(odd: str) -> None:
    async def use(pool: VerifierProcesses) -> int:
        scoring = asyncio.create_task(pool.score(spec(odd, 2.0, concurrency=3), asks(["hang"] * 5)))
        most = 0
        while not scoring.done():
            most = max(most, len(pool.pids()) - 1)
            await asyncio.sleep(0.01)
        assert statuses(await scoring) == ["timeout"] * 5
        return most

    assert with_pool(use, processes=2) == 3


def test_problems_take_turns(odd: str) -> None:
    """Two hundred answers to one problem are asked first; the two to another do not wait until those are through."""

    async def use(pool: VerifierProcesses) -> tuple[list[Verdict], list[Verdict]]:
        many = [ScoreRequest("a", "when", "")] * 200
        first = asyncio.create_task(pool.score(spec(odd, 5.0), many))
        second = asyncio.create_task(pool.score(spec(odd, 5.0), [ScoreRequest("b", "when", "")] * 2))
        return await first, await second

    many, few = with_pool(use)
    times = [sorted(float(verdict.feedback) for verdict in verdicts) for verdicts in (many, few)]
    assert times[1][-1] < times[0][100]


def test_what_a_verifier_leaves_behind_dies_with_its_process(odd: str) -> None:
    async def use(pool: VerifierProcesses) -> int:
        (verdict,) = await pool.score(spec(odd, 5.0), asks(["daemon"]))
        await pool.score(spec(odd, 5.0), asks(["die"]))
        return int(verdict.feedback)

    assert not alive(with_pool(use))


def test_a_memory_bomb_is_an_error_of_that_answer_alone(odd: str) -> None:
    verdicts = with_pool(lambda pool: pool.score(spec(odd, 5.0), asks(["fine", "memory", "fine"])))
    assert statuses(verdicts) == ["correct", "error", "correct"]
    assert "MemoryError" in verdicts[1].feedback


def test_a_template_that_dies_is_replaced(odd: str) -> None:
    async def use(pool: VerifierProcesses) -> list[Verdict]:
        await pool.score(spec(odd, 5.0), asks(["fine"]))
        os.kill(pool.pids()[0], signal.SIGKILL)
        await asyncio.sleep(0.2)
        return await pool.score(spec(odd, 5.0), asks(["fine"] * 4))

    assert statuses(with_pool(use, processes=2)) == ["correct"] * 4


def test_without_file_descriptors_the_answer_is_told_so_and_scored_when_there_are_some(odd: str) -> None:
    async def use(pool: VerifierProcesses) -> list[Verdict]:
        await pool.score(spec(odd, 5.0), asks(["die"]))  # the template runs, and no process is idle
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with open(os.devnull) as file:
            lowest = file.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            with pytest.raises(VerifierUnavailable, match="Too many open files"):
                await asyncio.wait_for(pool.score(spec(odd, 5.0), asks(["fine"] * 3)), 5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return await pool.score(spec(odd, 5.0), asks(["fine"] * 3))

    assert statuses(with_pool(use, processes=2)) == ["correct"] * 3


def test_who_asked_just_before_the_end_is_told(odd: str) -> None:
    async def main() -> None:
        pool = VerifierProcesses(2)
        await pool.start()
        verdicts = pool.submit(spec(odd, 5.0), asks(["fine"] * 3))
        await pool.close()
        for verdict in verdicts:
            with pytest.raises(VerifierUnavailable, match="closed"):
                await asyncio.wait_for(verdict, 1)

    asyncio.run(main())


def test_equal_specs_share_a_template_and_others_do_not(odd: str) -> None:
    async def use(pool: VerifierProcesses) -> int:
        for name, timeout_s in ((odd, 5.0), (odd, 5.0), ("exact", 5.0)):
            await pool.score(spec(name, timeout_s), asks(["fine"], "fine"))
        return len(pool.pids())

    assert with_pool(use) == 2 + 2


def test_the_options_of_a_verifier_are_part_of_its_version() -> None:
    async def use(pool: VerifierProcesses) -> list[str]:
        specs = [VerifierSpec("numeric", f'{{"rel_tol": {tolerance}}}') for tolerance in (0.1, 0.2, 0.1)]
        verdicts = [(await pool.score(one, asks(["1"], "1")))[0] for one in (*specs, VerifierSpec("numeric"))]
        return [verdict.version for verdict in verdicts]

    first, second, third, plain = with_pool(use)
    assert first == third != second
    assert first.startswith(f"{plain}+")


@pytest.mark.usefixtures("odd")
def test_what_each_process_needs_for_itself_is_made_before_its_first_answer() -> None:
    opened = VerifierSpec("odd_plugin:Opened", timeout_s=5.0)
    verdicts = with_pool(lambda pool: pool.score(opened, asks(["a", "b"])), processes=2, recycle_after=1)
    assert [verdict.feedback for verdict in verdicts] == ["True", "True"]
    assert max(verdict.milliseconds for verdict in verdicts) < 500


@pytest.mark.usefixtures("odd")
def test_a_process_that_does_not_get_ready_is_told_and_nothing_waits_for_it() -> None:
    async def use(pool: VerifierProcesses) -> None:
        with pytest.raises(VerifierUnavailable, match="did not get ready"):
            await pool.score(VerifierSpec("odd_plugin:Opened", '{"opens": false}'), asks(["a"] * 4))

    with_pool(use)
