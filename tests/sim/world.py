"""A whole run in one thread: the shipped core and workers as processes of a virtual cluster, and who restarts them.

The core (buffer, controller, learner, broadcaster) is restarted together, from nothing but the disk; only the buffer,
if it serves, may go on meanwhile. Workers are replaced one by one and survive the core. What goes wrong, and when, is
the scenario's.
"""

import asyncio
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arithmetic
from disk import Mount, SimDisk
from fakes import FakeEngine, FakeLearner, FakeVerifiers, SharedMemory
from faults import Faults
from network import CALM, Address, Network, Peer
from promises import Promises
from scenario import ROLES, Death, Scenario, Stop, WorkerFate, held_out_prompts, training_prompts
from settings import RUN_SEED, STALL_S, plan, rollout_config
from virtual_loop import Crash, Process, VirtualLoop

from actors.broadcaster import WeightBroadcaster
from actors.buffer import RolloutBuffer
from actors.controller import Controller
from actors.endings import EvaluationFailed
from actors.rollout_worker import RolloutWorker
from actors.waiting import DeadlineExceeded, PeerLost
from rollout.engine import EngineDead, WeightsDisagree
from rollout.event_log import JournalBroken
from rollout.storage import InUse

DEADLINE_S = 400.0
"""Virtual seconds that a run may take, its restarts included."""
_CALL_S = 2.0
_LEASE_S = 3.0
_NOTICE_S = 4.0
_HEALTHY = WorkerFate(token_s=0.02)
_SAID_TWICE = frozenset({"trained"})
_FROM_WORKERS = frozenset({"lease", "report", "revoked", "give_back", "finish"})
# What may end a run without being anybody's mistake: it is restarted. All else is a violation.
_MISFORTUNE = (PeerLost, DeadlineExceeded, TimeoutError, JournalBroken, InUse, OSError, EvaluationFailed)
_EXCUSE_S = 12.0  # a fault may be felt so much later: less than a stall takes to be noticed
_BROKEN_S = STALL_S + 5.0  # a journal that a full disk broke stays broken until its writer is replaced


class Unexcused(AssertionError):
    """Something failed, and no fault is to blame."""


class World:
    """One run under one scenario. `run` ends when the run is finished; the disk then tells what happened."""

    def __init__(self, scenario: Scenario, scratch: Path, tell: Callable[[str], None] | None = None) -> None:
        """`scratch` is a real folder for the files that decide nothing; `tell` hears what happens, in order."""
        self.scenario = scenario
        self.loop = VirtualLoop(scenario.seed)
        self.faults = Faults(self.loop.time)
        self.disk = SimDisk(scenario.seed, self.loop.time, self.faults)
        self.disk.full_from, self.disk.full_until = scenario.full_disk
        self.network = Network(self.loop, scenario.seed, scenario.weather, self.faults)
        self.promises = Promises()
        self.network.hear = self.promises.hear
        self.lives = 0
        """How often the core was started."""
        self.lasted = 0
        """How often the buffer went on from one life of the core into the next."""
        self._scratch = scratch
        self._tell = tell
        self._random = random.Random(scenario.seed)
        self._driver = self.loop.process("driver")
        self._core: dict[str, Process] = {}
        self._addresses: dict[str, Address] = {}
        self._shared: SharedMemory = {}
        self._workers: dict[str, Peer] = {}
        self._hired = 0
        self._buffer_goes_on = False  # from one life of the core into the next
        self._ready = False  # the core is up, and had its first workers
        self._end_of_life: asyncio.Future[None] = self.loop.create_future()
        verifiers = Address(self.loop.process("verifiers"), FakeVerifiers(self.network))
        self._verifiers = Peer(self.network, verifiers, _CALL_S)
        self.config, self.plan = rollout_config(scenario), plan(scenario)
        self.train, self.held_out = training_prompts(scenario), held_out_prompts()

    def run(self) -> None:
        """Run to the end.

        Raises:
            Deadlock, OutOfTime: When the run does not finish.
            Exception: Whatever ended the core or a worker and is not a misfortune.
        """
        self.network.later(self.scenario.weather_until, setattr, self.network, "weather", CALM)
        try:
            self.loop.run(self._drive(), self._driver, DEADLINE_S)
        finally:
            self.loop.abandon()
            shutil.rmtree(self._scratch, ignore_errors=True)

    def say(self, what: str) -> None:
        if self._tell:
            self._tell(f"{self.loop.time():8.3f}  {what}")

    # -- the driver -------------------------------------------------------------------------------------------

    async def _drive(self) -> None:
        """Start the core, again and again, until a controller says that the run is finished."""
        watch = asyncio.ensure_future(self._watch_workers())
        while True:
            try:
                await self._core_life(watch)
                return
            except _MISFORTUNE as error:
                self.say(f"the core ended: {type(error).__name__}: {error}")
                self._excuse(error)
                broken = isinstance(error, JournalBroken)
            self._end_core(keep_buffer=not broken and self._random.random() < 0.7)
            await asyncio.sleep(0.2 + self._random.random())

    def _excuse(self, error: Exception) -> None:
        """A misfortune follows a fault; a file that is missing is nobody's misfortune."""
        # An evaluation beside training that fails is felt at the next step.
        patience = _BROKEN_S if isinstance(error, JournalBroken | EvaluationFailed) else _EXCUSE_S
        if self.faults.calm_s() > patience or isinstance(error, FileNotFoundError | FileExistsError):
            raise Unexcused(
                f"{type(error).__name__}, {self.faults.calm_s():.1f} s after the last fault: {error}"
            ) from error

    async def _core_life(self, watch: "asyncio.Future[None]") -> None:
        try:
            controller = self._start_core()
        except Crash as crash:
            raise PeerLost(f"{crash} died while it came up") from None
        await self._join_all()
        self._ready = True
        run = controller.run()
        done, _ = await asyncio.wait((run, watch, self._end_of_life), return_when=asyncio.FIRST_COMPLETED)
        for end in (run, watch, self._end_of_life):  # `done` has no order
            if end in done:
                end.result()
        status = run.result()
        assert status.state == "finished", f"the run ended as {status.state}: {status.message}"

    def _start_core(self) -> Peer:
        deaths = self.scenario.deaths
        death = deaths[self.lives] if self.lives < len(deaths) else None
        self.lives += 1
        self._end_of_life = self.loop.create_future()
        self.say(f"life {self.lives} of the core begins")
        goes_on = self._buffer_goes_on and self._core["buffer"].alive
        afresh = [role for role in ROLES if not (role == "buffer" and goes_on)]
        for role in ROLES:
            if role in afresh:
                self._core[role] = process = self.loop.process(f"{role}-{self.lives}")
                process.on_death.append(lambda process=process: self._died(process))
                process.on_death.append(lambda process=process: self._missed(process))
            if death and role == death.role:
                self._doom(self._core[role], death)
        self.lasted += goes_on
        if self.lives == 1 and self.scenario.buffer_stop:
            self._stop_later(self._core["buffer"], self.scenario.buffer_stop, self._end_of_life)
        for role, make in (
            ("buffer", self._make_buffer),
            ("learner", self._make_learner),
            ("broadcaster", lambda mount: WeightBroadcaster([], 0.5, _CALL_S, _CALL_S)),
            ("controller", self._make_controller),
        ):
            if role in afresh:
                process = self._core[role]
                self._take_address(role, process, process.context.run(make, Mount(self.disk, process)))
        return self._peer("controller", 1e9)

    def _missed(self, process: Process) -> None:
        if process in self._core.values():
            self._give_up_soon(process.name, self._end_of_life)

    def _give_up_soon(self, name: str, life: "asyncio.Future[None]") -> None:
        """Whoever watches over the core misses a process in a while, if nobody in the core has felt it before."""

        def notice() -> None:
            if not life.done():
                life.set_exception(PeerLost(f"{name} does not answer who watches over it"))
                life.exception()

        self.network.later(self._random.random() * _NOTICE_S, notice)

    def _doom(self, process: Process, death: Death) -> None:
        process.dies_at = process.points + death.point
        if death.everything:
            process.on_death.append(self._power_off)

    def _power_off(self) -> None:
        self.faults.note("power loss")
        for process in [*self._core.values(), *(peer.address.process for peer in self._workers.values())]:
            process.kill()

    def _end_core(self, keep_buffer: bool) -> None:
        stop = self.scenario.buffer_stop
        self._buffer_goes_on = self._ready and keep_buffer and not self._core["buffer"].stopped
        self._ready = False
        for role, process in self._core.items():
            kept = role == "buffer" and self._buffer_goes_on
            if not kept and not (process.stopped and stop and stop.unreachable):
                process.kill()

    def _take_address(self, role: str, process: Process, target: Any) -> None:
        if address := self._addresses.get(role):
            address.process, address.target = process, target
        else:
            self._addresses[role] = Address(process, target)

    def _peer(self, role: str, deadline_s: float) -> Peer:
        return Peer(self.network, self._addresses[role], deadline_s)

    def _make_buffer(self, mount: Mount) -> RolloutBuffer:
        return RolloutBuffer(
            mount.folder("journal"), self.train, self.held_out, self.config, RUN_SEED, _LEASE_S, self.loop.time
        )

    def _make_learner(self, mount: Mount) -> FakeLearner:
        return FakeLearner(mount, self._relative, self._shared, self._random, self.scenario.unstable)

    def _make_controller(self, mount: Mount) -> Controller:
        self._scratch.mkdir(parents=True, exist_ok=True)
        return Controller(
            self.plan,
            self._scratch,
            self.scenario.make_scheduler(),
            Peer(self.network, self._addresses["buffer"], STALL_S + _CALL_S, repeated=_SAID_TWICE),
            self._peer("learner", 10.0),
            self._peer("broadcaster", 20.0),
            mount,
            self.loop.time,
        )

    def _relative(self, directory: str) -> str:
        return str(Path(directory).relative_to(self._scratch))

    # -- workers ----------------------------------------------------------------------------------------------

    async def _join_all(self) -> None:
        """Every worker takes part in this life of the core, or is replaced."""
        for name, worker in list(self._workers.items()):
            await self._try(name, self._join(worker))
        await self._hire_missing()

    async def _watch_workers(self) -> None:
        """Replace those that end or fall silent."""
        while True:
            await asyncio.sleep(1.0)
            for name, worker in list(self._workers.items()):
                await self._try(name, worker.health())
            if self._ready:
                try:
                    await self._hire_missing()
                except PeerLost as error:  # the core's next life hires them
                    self.say(str(error))

    async def _hire_missing(self) -> None:
        while len(self._workers) < self.scenario.workers:
            if not all(process.alive for process in self._core.values()):
                raise PeerLost("the core died while workers came up")
            await self._hire()

    async def _try(self, name: str, call: Any) -> None:
        """Await something of a worker; when it fails, the worker is given up."""
        try:
            await call
        except (*_MISFORTUNE, EngineDead, WeightsDisagree) as error:
            self.say(f"{name} is given up: {type(error).__name__}: {error}")
            self._excuse(error)
            await self._dismiss(name)

    async def _join(self, worker: Peer) -> None:
        await self._peer("broadcaster", 10.0).join(_name(worker), worker)

    async def _hire(self) -> None:
        fates = self.scenario.fates
        fate = fates[self._hired] if self._hired < len(fates) else _HEALTHY
        name = f"worker-{self._hired}"
        self._hired += 1
        process = self.loop.process(name, fate.dies_at)
        process.on_death.append(lambda: self._died(process))
        worker = process.context.run(self._make_worker, name, fate)
        self._workers[name] = Peer(self.network, Address(process, worker), _CALL_S)
        if fate.stop:
            self._stop_later(process, fate.stop)
        self.say(f"{name} is hired")
        await self._try(name, self._begin(self._workers[name]))

    async def _begin(self, worker: Peer) -> None:
        await self._join(worker)
        await worker.start()

    def _make_worker(self, name: str, fate: WorkerFate) -> RolloutWorker:
        return RolloutWorker(
            name,
            lambda: FakeEngine(self._shared, self._random, fate.token_s, self._refused),
            lambda: arithmetic.decode,
            Peer(self.network, self._addresses["buffer"], _CALL_S, _FROM_WORKERS),
            self._verifiers,
            self.config.max_concurrent,
            self.config.report_every_s,
            _CALL_S,
            buffer_patience_s=120.0,
        )

    async def _dismiss(self, name: str) -> None:
        peer = self._workers.pop(name, None)
        if peer is None:
            return
        number = int(name.rpartition("-")[2])
        fate = self.scenario.fates[number] if number < len(self.scenario.fates) else _HEALTHY
        if not (fate.stop and fate.stop.unreachable):
            peer.address.process.kill()
        for role, call in (("buffer", "worker_lost"), ("broadcaster", "leave")):
            try:
                await self._peer(role, _CALL_S).call(call, name)
            except _MISFORTUNE as error:
                self.say(f"{role} did not hear that {name} is gone: {error}")

    # -- faults -----------------------------------------------------------------------------------------------

    def _died(self, process: Process) -> None:
        if process.points == process.dies_at:  # else somebody ended it
            self.faults.note("death of " + process.name.rpartition("-")[0])
        self.say(f"{process.name} died")

    def _refused(self) -> bool:
        refused = self.network.weather is not CALM and self._random.random() < self.scenario.refusal
        if refused:
            self.faults.note("weights refused")
        return refused

    def _stop_later(self, process: Process, stop: Stop, life: "asyncio.Future[None] | None" = None) -> None:
        """`life`, if it is one of the core, is given up while a process of it cannot be reached."""

        def fall_silent() -> None:
            if process.alive:
                process.stopped = True
                self.faults.note("stop of " + process.name.rpartition("-")[0])
                self.say(f"{process.name} falls silent")
                self.network.later(stop.seconds, come_back)
                if life and stop.unreachable:
                    self._give_up_soon(process.name, life)

        def freeze() -> None:
            fall_silent()
            self.loop.freeze(process)

        def come_back() -> None:
            if process.alive:
                self.faults.recent()
                self.say(f"{process.name} is back")
                self.loop.resume(process)
                if life and stop.unreachable:
                    self._after_a_zombie(process, stop)

        if stop.point < 0:
            self.network.later(stop.at, fall_silent)
        else:
            process.stops_at, process.stop_skips, process.on_stop = stop.point, stop.skips, freeze

    def _after_a_zombie(self, process: Process, stop: Stop) -> None:
        """A process of the first life is back: perhaps its successor dies, and it is ended itself if it has one."""

        def successor_dies() -> None:
            successor = self._core["buffer"]
            if successor is not process and successor.alive:
                self.faults.note("death of a zombie's successor")
                successor.kill()

        def is_ended() -> None:
            if self.lives > 1 and process is not self._core["buffer"]:
                process.kill()

        if stop.encore_s < math.inf:
            self.network.later(stop.encore_s, successor_dies)
        self.network.later(1.5 + self._random.random() * _NOTICE_S, is_ended)  # no pause between lives is as long


def _name(worker: Peer) -> str:
    return worker.address.process.name
