"""Replacement of rollout workers over fakes: a log of who was asked what, in order."""

import asyncio

from cluster.workforce import Workforce


class FakeWorker:
    def __init__(self, name: str, log: list[str], ill_after: int) -> None:
        self.name, self.log, self.ill_after = name, log, ill_after

    async def engine_pids(self) -> list[int]:
        self.log.append(f"{self.name} comes up")
        return [1]

    async def start(self) -> None:
        self.log.append(f"{self.name} starts")

    async def health(self) -> dict[str, float]:
        self.ill_after -= 1
        if self.ill_after < 0:
            raise RuntimeError("the engine process is gone")
        return {}

    async def call(self, method: str) -> None:
        self.log.append(f"{self.name} {method}s")

    def kill(self) -> None:
        self.log.append(f"{self.name} killed")


class FakeCasting:
    """Hires workers that fall ill after so many looks, in the order given; the last stays well."""

    def __init__(self, log: list[str], ill_after: list[int], unfit: str = "") -> None:
        self.log, self.ill_after, self.unfit = log, ill_after, unfit

    def worker(self, name, model_dir, buffer, verifiers):
        if name == self.unfit:
            raise RuntimeError("no room on any node")
        return FakeWorker(name, self.log, self.ill_after.pop(0) if self.ill_after else 10**9)


class FakeBuffer:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def worker_lost(self, name: str) -> None:
        self.log.append(f"leases of {name} freed")


class FakeBroadcaster:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def leave(self, name: str) -> None:
        self.log.append(f"{name} leaves")

    async def join(self, name: str, worker: FakeWorker) -> None:
        self.log.append(f"{name} joins")


def watch(
    ill_after: list[int], restarts: int, unfit: str = "", seconds: float = 0.2
) -> tuple[list[str], str, Workforce]:
    log: list[str] = []

    async def run() -> tuple[str, Workforce]:
        casting = FakeCasting(log, ill_after, unfit)
        workforce = Workforce(casting, "model", FakeBuffer(log), None, restarts, 5.0, look_every_s=0.001)
        await workforce.up(1)
        await workforce.start(FakeBroadcaster(log))
        try:
            async with asyncio.timeout(seconds):
                return await workforce.watch(), workforce
        except TimeoutError:
            return "", workforce

    reason, workforce = asyncio.run(run())
    return log, reason, workforce


def test_a_worker_that_ends_is_replaced_and_the_newcomer_has_weights_before_it_works():
    log, reason, workforce = watch([2], restarts=1)
    assert reason == ""
    assert log == [
        "rollout-worker-0 comes up",
        "rollout-worker-0 starts",
        "rollout-worker-0 killed",
        "leases of rollout-worker-0 freed",
        "rollout-worker-0 leaves",
        "rollout-worker-1 comes up",
        "rollout-worker-1 joins",
        "rollout-worker-1 starts",
    ]
    assert workforce.note.startswith("replaced rollout-worker-0 (rollout-worker-0: RuntimeError: the engine process is")


def test_when_the_budget_is_spent_the_reason_is_told():
    log, reason, _ = watch([0, 0], restarts=1)
    assert reason == "rollout-worker-1: RuntimeError: the engine process is gone"
    assert log.count("rollout-worker-1 starts") == 1


def test_a_worker_that_cannot_be_replaced_ends_the_run_with_both_reasons():
    _, reason, _ = watch([0], restarts=3, unfit="rollout-worker-1")
    assert reason.startswith("rollout-worker-0: RuntimeError: the engine process is gone")
    assert reason.endswith("its successor failed: RuntimeError: no room on any node")
