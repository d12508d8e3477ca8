"""A run whose actors exist only on paper: they answer, die, fall silent and come back as a test says."""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from actors.pulse import Doing, Pulse
from actors.waiting import PeerAway, PeerLost
from cluster.ensemble import Ensemble
from cluster.incidents import Incidents
from cluster.supervisor import Patience, Supervisor
from cluster.workforce import Workforce

CORE = ("buffer", "broadcaster", "learner-0", "learner-1", "controller")


class FakePeer:
    """One actor. What is asked of it, other than how it is, goes to a log that all share."""

    def __init__(self, name: str, log: list[str], comes_back: bool = True) -> None:
        self.name, self.log, self.comes_back = name, log, comes_back
        self.process, self.state = 1, "up"
        self.doing: tuple[Doing, ...] = ()
        self.blocked_s = 0.0
        self.health = {"tokens": 0.0, "requests": 0.0}
        self.raises: dict[str, Exception] = {}
        self.may_come = asyncio.Event()
        self.may_come.set()

    def __getattr__(self, method: str) -> Any:
        return lambda *args: self.call(method, *args)

    async def call(self, method: str, *args: Any) -> Any:
        if self.state == "silent":
            await asyncio.sleep(60)
        if method == "engine_pids":
            await self.may_come.wait()
        if self.state == "dead":
            raise PeerAway(f"{self.name} died") if self.comes_back else PeerLost(f"{self.name} died")
        if method == "pulse":
            return Pulse(self.name, self.process, float(self.process), "node", 7, self.blocked_s, self.doing, ())
        if method != "health":
            self.log.append(" ".join([self.name, method, *(arg for arg in args if isinstance(arg, str))]))
        if method in self.raises:
            raise self.raises[method]
        return self.health if method == "health" else None

    def reborn(self) -> None:
        self.process, self.state = self.process + 1, "up"

    def restart(self) -> None:
        self.log.append(f"{self.name} restarted")
        self.reborn()

    def kill(self) -> None:
        self.log.append(f"{self.name} killed")
        self.state = "dead"


class RayChooses:
    """A seating without places of its own."""

    def first(self) -> None:
        return None


class FakeCasting:
    """Hires workers; those named in `unfit` cannot be had."""

    seating = RayChooses()

    def __init__(self, log: list[str]) -> None:
        self.log, self.unfit = log, set[str]()
        self.open = asyncio.Event()
        """Until it is set nobody comes up."""
        self.open.set()

    def worker(self, name: str, *_: object) -> FakePeer:
        worker = FakePeer(name, self.log, comes_back=False)
        worker.may_come = self.open
        if name in self.unfit:
            worker.raises["engine_pids"] = RuntimeError("no room on any node")
        return worker

    def verifier_pool(self, number: int) -> tuple[str, FakePeer]:
        return f"verifiers-{number}", FakePeer(f"verifiers-{number}", self.log)


@dataclass
class Stage:
    """A run with one worker, and a clock that a test moves."""

    root: Path
    restarts: int = 10
    on_stall: Any = "restart"
    silent_s: float = 30
    log: list[str] = field(default_factory=list)
    now: float = 1000.0
    runs: int = 0
    prod_s: float = 0.0

    async def set(self) -> "Stage":
        self.peers = {name: FakePeer(name, self.log) for name in (*CORE, "verifiers")}
        self.casting = FakeCasting(self.log)
        self.workforce = Workforce(self.casting, "model", self.peers["buffer"], [None], 5.0, self.peers["broadcaster"])
        self.run: asyncio.Future[Any] = asyncio.Future()
        core = {name: self.peers[name] for name in CORE}
        self.core = Ensemble(core, self.bring_up, 1.0, self.begin, lasting=("buffer",), answer_s=0.02)
        self.verifiers = Ensemble(
            {"verifiers": self.peers["verifiers"]}, self.peers["verifiers"].start, 1.0, answer_s=0.02
        )
        self.incidents = Incidents(self.root / "incidents.jsonl", self.restarts, lambda: self.now)
        patience = Patience(10, self.silent_s, 120, 600, self.on_stall, answer_s=0.02, look_every_s=0.001)
        self.supervisor = Supervisor(
            self.core,
            {"verifiers": self.verifiers},
            self.workforce,
            self.incidents,
            patience,
            self.root,
            self.prod,
            self.clock,
        )
        await self.verifiers.start()
        await self.workforce.hire()
        await self.core.start()
        await self.supervisor.look()
        self.log.clear()
        return self

    async def bring_up(self) -> None:
        self.log.append("connected")
        await self.workforce.enlist_all()

    async def begin(self) -> Any:
        self.runs += 1
        self.run = asyncio.Future()
        return await self.run

    async def prod(self, pulse: Pulse) -> str:
        self.wait(self.prod_s)
        return "T" if self.worker(pulse.name).state == "silent" else "S"

    def clock(self) -> float:
        return self.now

    def worker(self, name: str) -> FakePeer:
        return self.peers.get(name) or self.workforce.workers[name]

    def wait(self, seconds: float) -> None:
        """Time passes, and the supervisor is awake."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + 0.5, until)
            self.supervisor._now()

    def stand_still(self, seconds: float) -> None:
        """Time passes without the supervisor: it wakes up at the end of it."""
        self.now += seconds
        self.supervisor._now()

    async def look(self, after_s: float = 0.5) -> None:
        """Look again, and let what is being mended be mended."""
        self.wait(after_s)
        await self.supervisor.look()
        for task, _ in list(self.supervisor._recoveries.values()):
            await asyncio.wait([task])
        await self.supervisor.look()

    @property
    def rows(self) -> list[dict[str, Any]]:
        file = self.root / "incidents.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture
def play(tmp_path):
    """Plays a scene on a stage of its own; returns the stage as it is afterwards."""

    def play(scene: Any, **settings: Any) -> Stage:
        async def run() -> Stage:
            stage = await Stage(tmp_path, **settings).set()
            await scene(stage)
            stage.incidents.close()
            return stage

        return asyncio.run(run())

    return play
