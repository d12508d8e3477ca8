"""Keeps a run up: listens to every actor's pulse, replaces who is lost, and explains a stall and acts on it.

    who                 lost, or silent for `silent_s`         on the way there
    rollout worker      replaced by a new one                  silent for `suspect_s`: loses its leases
    verifier pool       started again in place
    the learning side   started again together; the buffer,    its run failed because somebody was lost
                        if it serves, goes on and with it
                        the engines, up to the bound

Ray sees a killed process in seconds and a stopped one not at all, so everybody is asked. What is not the fault of a
process (an exception of the run itself) would happen again: it ends the run. So does a spent budget. Who does not
listen hears nobody: while this process itself stands still (stopped, paused with its machine, blocked by a write),
nobody is silent and nothing stalls.
"""

import asyncio
import logging
import time
from collections import ChainMap
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actors.pulse import Pulse
from actors.records import RunStatus
from actors.waiting import DeadlineExceeded, PeerLost, open_waits, within
from cluster.ensemble import Ensemble
from cluster.incidents import GivenUp, Incident, Incidents
from cluster.stalls import Silent, explain, publish, state_in_words
from cluster.workforce import Workforce
from rollout.engine import WeightsMissing
from rollout.event_log import JournalBroken

if TYPE_CHECKING:
    from actors.ray_app import Peer

logger = logging.getLogger(__name__)

_CORE = "core"
_OTHERS = "the others go on; another joins when there is room"
_STANDSTILL_S = 2.0  # the watch turns every half second; a gap of more than this is no mere delay


@dataclass(frozen=True, slots=True)
class Patience:
    """How long silence and standstill are borne."""

    suspect_s: float
    silent_s: float
    stall_s: float
    learner_timeout_s: float
    """A learner rank that computes for less than this is not a stall."""
    on_stall: Literal["restart", "abort"] = "restart"
    answer_s: float = 2.0
    look_every_s: float = 0.5


@dataclass(slots=True)
class _Vital:
    """What is known of one actor."""

    heard_at: float
    generated_at: float
    """When a worker's engine last gave a token, or had no request."""
    tokens: float = 0.0
    """That it has given."""
    health: Mapping[str, float] = field(default_factory=dict)
    pulse: Pulse | None = None
    suspected: bool = False

    def forgive(self, seconds: float, now: float) -> None:
        """Nobody listened for so long."""
        self.heard_at = min(self.heard_at + seconds, now)
        self.generated_at = min(self.generated_at + seconds, now)

    def hear(self, health: Mapping[str, float], now: float) -> None:
        """Take note of a worker's counters."""
        self.health = health
        if health["tokens"] != self.tokens or not health["requests"]:
            self.tokens, self.generated_at = health["tokens"], now


class Supervisor:
    """Watches over one run.

    Args:
        core: The actors that make the run; its `run` is the run.
        verifiers: The verifier pools that serve, by name, now and later.
        workforce: The rollout workers.
        incidents: Where failures are written down, and their budget.
        patience: How long what is borne.
        run_dir: Has `logs/`; stalls are written to `stalls/`.
        prod: Makes a process write its stacks and tells its state (`ray_app.prod`).
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        core: Ensemble,
        verifiers: MutableMapping[str, Ensemble],
        workforce: Workforce,
        incidents: Incidents,
        patience: Patience,
        run_dir: Path,
        prod: Callable[[Pulse], Awaitable[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ensembles = ChainMap({_CORE: core}, verifiers)  # pools come and go
        self._workforce = workforce
        self._incidents = incidents
        self._patience = patience
        self._run_dir = run_dir
        self._prod = prod
        self._clock = clock
        self._vitals: dict[str, _Vital] = {}
        self._recoveries: dict[str, tuple[asyncio.Task[None], Incident]] = {}
        self._to_learn_again: list[Incident] = []  # of the learning side, which is up again, but has done nothing yet
        self._learned: tuple[object, ...] | None = None
        self._seen = RunStatus()
        self._progress: tuple[object, ...] | None = None
        self._progress_at = self._awake_at = clock()

    # -- what others ask --------------------------------------------------------------------------------------

    async def watch(self) -> Any:
        """Keep the run up until it ends; returns its result, or raises what ended it.

        Raises:
            GivenUp: When the budget for failures is spent, or after a stall, where the configuration says so.
        """
        staying_awake = asyncio.create_task(self._stay_awake())
        try:
            while not await self._is_over():
                await self.look()
                await asyncio.sleep(self._patience.look_every_s)
            run = self._core.run
            assert run is not None
            return run.result()
        finally:
            staying_awake.cancel()
            for task, _ in self._recoveries.values():
                task.cancel()
            self._incidents.close()

    def see(self, status: RunStatus) -> None:
        """Take note of a picture of the run: does it progress?"""
        buffer = status.buffer
        counts = (buffer.finished, buffer.tokens, buffer.reported)
        progress = (status.phase, status.iteration, status.step, status.version, len(status.evals), *counts)
        # Engines go on while the learning side is lost: their tokens do not show that it is back.
        learned = None
        if status.phase:
            evaluated = buffer.finished if status.phase == "eval" else 0
            learned = (status.iteration, status.step, len(status.evals), evaluated)
        if learned and self._learned not in (None, learned):
            for incident in self._to_learn_again:
                self._incidents.mended(incident)
            self._to_learn_again.clear()
        if self._progress not in (None, progress):
            self._incidents.progressed()
        self._learned = learned
        if self._progress != progress:
            self._progress_at = self._now()
        self._seen, self._progress = status, progress

    @property
    def note(self) -> str:
        """Who does not answer or is missing, or else the last incident, for people."""
        if self._deserted:
            return "no rollout worker is left; one joins when a node has room"
        silent = [name for name, vital in self._vitals.items() if vital.suspected]
        return f"{', '.join(sorted(silent))}: no answer" if silent else self._incidents.latest

    @property
    def engines(self) -> dict[str, float]:
        """What the workers said last: see `RunStatus.engines`."""
        told = [vital.health for vital in self._vitals.values() if vital.health]
        return {
            "requests": sum(health["requests"] for health in told),
            "slots": sum(health.get("slots", 0.0) for health in told),
            "pause_s": max((health.get("pause_s", 0.0) for health in told), default=0.0),
        }

    def workers_on(self, nodes: Collection[str]) -> list[str]:
        """Rollout workers whose last pulse came from one of these nodes."""
        homes = {name: vital.pulse.node_id for name, vital in self._vitals.items() if vital.pulse}
        return [name for name in self._workforce.workers if homes.get(name) in nodes]

    @property
    def restarting(self) -> bool:
        """Whether the learning side is being brought up again: it cannot be asked for anything then."""
        return _CORE in self._recoveries

    # -- a look -----------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Ask everybody who should be up, once, and begin to mend what is broken."""
        self._collect()
        peers, now = self._members(), self._now()
        self._vitals = {name: self._vitals.get(name, _Vital(now, now)) for name in peers}
        answers = await asyncio.gather(*(self._ask(name, peer) for name, peer in peers.items()))
        now = self._now()  # what is done about one actor takes time, which is not the silence of another
        judged = (self._judge(name, *answer, now) for name, answer in zip(peers, answers, strict=True))
        for name, ailment in zip(peers, await asyncio.gather(*judged), strict=True):
            if ailment:
                self._mend(self._unit(name), name, ailment)
        if self._recoveries or self._computing(now) or self._deserted:
            self._progress_at = self._now()
        if now - self._progress_at >= self._patience.stall_s:
            await self._stalled(now)

    def _members(self) -> "dict[str, Peer]":
        """Everybody who is up and not being mended."""
        peers: dict[str, Peer] = dict(self._workforce.workers)
        for ensemble in self._ensembles.values():
            peers |= ensemble.peers
        return {name: peer for name, peer in peers.items() if self._unit(name) not in self._recoveries}

    async def _ask(self, name: str, peer: "Peer") -> tuple[Pulse | None, Exception | None]:
        """Its pulse, and what is wrong with it by its own account."""
        pulse = None
        try:
            pulse = await within(self._patience.answer_s, peer.call("pulse"), f"driver waits for the pulse of {name}")
            if name in self._workforce.workers:
                asked = peer.call("health")
                health = await within(self._patience.answer_s, asked, f"driver waits for the health of {name}")
                self._vitals[name].hear(health, self._now())
        except DeadlineExceeded:
            pass  # silence is judged by its length
        except Exception as error:
            return pulse, error
        return pulse, None

    async def _judge(self, name: str, pulse: Pulse | None, error: Exception | None, now: float) -> str:
        """What is wrong with an actor, in words; empty when nothing is, or not yet."""
        vital = self._vitals[name]
        ensemble = self._ensembles.get(self._unit(name))
        if pulse:
            vital.pulse, vital.heard_at = pulse, now - pulse.blocked_s
            if ensemble and not ensemble.serves(pulse):
                return "its process died"
        if error:
            logger.warning("%s: %s", name, error)
            if not isinstance(error, PeerLost):
                return f"{type(error).__name__}: {error}"
            return str(error) if pulse else f"its process died: {error}"  # who answers may tell of another's death
        silent_s = now - vital.heard_at
        if silent_s >= self._patience.silent_s:
            state = await self._prod(vital.pulse) if vital.pulse else "never heard of"
            return f"no answer for {silent_s:.0f} s, {state_in_words(state)}"
        suspected, vital.suspected = vital.suspected, silent_s >= self._patience.suspect_s
        if vital.suspected and not suspected and name in self._workforce.workers:
            logger.warning("%s has not answered for %.1f s: its groups are given to others", name, silent_s)
            await self._suspend(name)
        return ""

    async def _suspend(self, name: str) -> None:
        try:
            await self._workforce.suspend(name)
        except (PeerLost, TimeoutError) as error:
            logger.warning("%s keeps its groups for now: %s", name, error)

    # -- mending ----------------------------------------------------------------------------------------------

    def _mend(self, unit: str, victim: str, noticed: str, everybody: bool = False) -> None:
        """Begin to mend a unit; `everybody` of it, also who would go on while the others start again."""
        if unit in self._recoveries:
            return
        in_vain = unit == _CORE and bool(self._to_learn_again)
        again = "the learning side starts again" if unit == _CORE else "it starts again"
        replaced = "it is replaced" if len(self._workforce.workers) <= self._workforce.least else _OTHERS
        action = again if unit in self._ensembles else replaced
        incident = self._incidents.begin(victim, noticed, action)
        self._recoveries[unit] = asyncio.create_task(self._recover(unit, everybody or in_vain)), incident

    async def _recover(self, unit: str, everybody: bool) -> None:
        if ensemble := self._ensembles.get(unit):
            await ensemble.restart(everybody)
            return
        await self._workforce.dismiss(unit)
        if self._workforce.short:
            await self._workforce.recruit(self._core)

    def _collect(self) -> None:
        """Take note of recoveries that have ended; one that failed is a failure of its own."""
        for unit, (task, incident) in list(self._recoveries.items()):
            if not task.done():
                continue
            del self._recoveries[unit]
            self._progress = self._learned = None  # what begins again is not progress
            if error := task.exception():
                noticed = f"it did not come back: {type(error).__name__}: {error}"
                self._mend(unit, incident.victim, noticed, everybody=True)
            elif unit == _CORE:
                self._to_learn_again.append(incident)
            else:
                self._incidents.mended(incident)

    async def _is_over(self) -> bool:
        """Whether the run has ended and shall not be taken up again."""
        run = self._core.run
        if self.restarting or run is None or not run.done():
            return False
        if (error := run.exception()) is None:
            return True
        changed = [name for name, standing in (await self._core.standings()).items() if standing != "serves"]
        broken = isinstance(error, JournalBroken)  # its buffer answers, and can write nothing any more
        if not changed and not broken and not isinstance(error, PeerLost | TimeoutError | WeightsMissing):
            return True  # nobody died, and nobody waited in vain: it would only happen again
        noticed = f"the run failed: {type(error).__name__}: {error}"
        self._mend(_CORE, ", ".join(changed) or "the run", noticed, everybody=broken)
        return False

    # -- stalls -----------------------------------------------------------------------------------------------

    def _computing(self, now: float) -> bool:
        """Whether a learner rank is at work: a long step is no stall. What a silent one was at does not count."""
        return any(
            one.age_s < self._patience.learner_timeout_s
            for name, vital in self._vitals.items()
            if name.startswith("learner-") and vital.pulse and now - vital.heard_at < self._patience.suspect_s
            for one in vital.pulse.doing
        )

    @property
    def _deserted(self) -> bool:
        """Whether all workers have left, and room for others is asked for; the controller bounds how long it waits."""
        return not (self._workforce.workers or self._recoveries)

    async def _stalled(self, now: float) -> None:
        """Explain it, then act as configured."""
        standstill = f"no progress for {now - self._progress_at:.0f} s"
        file, silent = await self._explain(standstill, now)
        self._progress_at = self._now()
        if self._patience.on_stall == "abort":
            raise GivenUp(f"{standstill} (actors.on_stall=abort); {file} says who waits for whom; rloop resume goes on")
        for name in silent:
            self._mend(self._unit(name), name, f"{standstill}, and it does not answer")
        mute = {} if silent else self._mute(now)
        for name, seconds in mute.items():
            self._mend(name, name, f"{standstill}, and its engine has requests and gave no token for {seconds:.0f} s")
        if not silent and not mute:
            self._mend(_CORE, "the run", f"{standstill}, and everybody answers; see {file.name}", everybody=True)

    def _mute(self, now: float) -> dict[str, float]:
        """Workers whose engines hang, and for how long: an engine's process cannot be asked, its worker answers."""
        enough = self._patience.stall_s / 2
        workers = {name: vital for name, vital in self._vitals.items() if name in self._workforce.workers}
        seconds = {name: now - vital.generated_at for name, vital in workers.items()}
        return {name: mute for name, mute in seconds.items() if mute >= enough}

    async def _explain(self, standstill: str, now: float) -> tuple[Path, list[str]]:
        """Tell everything that is known of it; returns the file that has it, and who is silent."""
        heard = {name: vital for name, vital in self._vitals.items() if vital.pulse}
        states = await asyncio.gather(*(self._prod(vital.pulse) for vital in heard.values() if vital.pulse))
        silent = [
            Silent(vital.pulse, now - vital.heard_at, state)
            for vital, state in zip(heard.values(), states, strict=True)
            if vital.pulse and now - vital.heard_at >= self._patience.suspect_s
        ]
        pulses = [vital.pulse for vital in heard.values() if vital.pulse]
        seen, buffer = self._seen, self._seen.buffer
        progress = (
            f"{standstill}: {seen.phase or 'no phase'} of iteration {seen.iteration + 1}, step {seen.step} of "
            f"{seen.steps}, version {seen.version}; groups: {buffer.running} running, {buffer.ready} ready, "
            f"{buffer.finished} finished; the controller waits for {seen.waiting or 'nothing'}"
        )
        text = explain(progress, pulses, open_waits(), silent, self._run_dir / "logs")
        return publish(text, self._run_dir / "stalls"), [one.pulse.name for one in silent]

    # -- small things -----------------------------------------------------------------------------------------

    def _now(self) -> float:
        """The time. If this process has stood still since it last asked for it, that is forgiven everybody first."""
        now = self._clock()
        gap_s, self._awake_at = now - self._awake_at, now
        if gap_s > _STANDSTILL_S:
            logger.warning("the driver stood still for %.1f s: that is nobody's silence, and no stall", gap_s)
            for vital in self._vitals.values():
                vital.forgive(gap_s, now)
            self._progress_at = min(self._progress_at + gap_s, now)
        return now

    async def _stay_awake(self) -> None:
        """Ask for the time again and again, also while answers are awaited: then a gap is a standstill."""
        while True:
            self._now()
            await asyncio.sleep(self._patience.look_every_s)

    @property
    def _core(self) -> Ensemble:
        return self._ensembles[_CORE]

    def _unit(self, name: str) -> str:
        """What is mended together with this actor: an ensemble, or the one worker."""
        return next((unit for unit, ensemble in self._ensembles.items() if name in ensemble.peers), name)
