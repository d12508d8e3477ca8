"""What one seed means: a configuration of a run, and what will go wrong in it."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from network import CALM, Weather

from rollout.records import Prompt
from trainer.config import PhaseEndConfig, ScheduleConfig
from trainer.phases import Phase, PhaseScheduler
from trainer.schedules import make_scheduler

ENTROPY_FLOOR = 0.5
ROLES = ("buffer", "controller", "learner", "broadcaster")
"""Processes of the core: they are restarted together."""


@dataclass(frozen=True, slots=True)
class Death:
    """A process of the core dies at a certain point of its life (`virtual_loop.Process.point`)."""

    role: str
    point: int
    everything: bool
    """Workers and the rest of the core go with it at the same instant, as when the machine loses power."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A process falls silent, and may come back."""

    at: float
    seconds: float
    unreachable: bool
    """It cannot be killed meanwhile: a network partition. It comes back as a zombie."""
    point: int = -1
    """In the midst of its disk operations, at this point of its life, instead of at a time…"""
    skips: int = 0
    """…and so many edges of disk operations later."""
    encore_s: float = math.inf
    """So long after it is back its successor dies: the next one reads what both wrote."""


@dataclass(frozen=True, slots=True)
class WorkerFate:
    """What happens to one worker."""

    token_s: float
    dies_at: int = -1
    stop: Stop | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run and its faults, all drawn from the seed."""

    seed: int
    staleness: int
    oversample: float
    deterministic: bool
    drop_zero_variance: bool
    workers: int
    max_concurrent: int
    prompts: int
    phases: int
    """RL phases."""
    scheduler: str
    """RL phases only (`rl`), each from the weights of the last, or one of the schedulers that a run may name."""
    rl_steps: int
    min_experts: int
    checkpoint_every_s: float
    deaths: tuple[Death | None, ...]
    """Of the first, second… life of the core; later lives end well."""
    buffer_stop: Stop | None
    fates: tuple[WorkerFate, ...]
    """Of the workers in the order of their hiring; later ones are healthy."""
    weather: Weather
    weather_until: float
    full_disk: tuple[float, float]
    refusal: float
    """How often an engine finds that the weights it was given are not those that were sent."""
    unstable: bool
    """Some steps leave the bands of the stability guard: η is tightened, steps are rolled back."""
    ends_early: bool
    """Some steps have an entropy below the floor that ends their phase."""
    eval_every: int | None
    """RL steps between evaluations in a phase."""
    eval_overlap: bool
    holdout_frac: float
    """Share of an expert set's problems that RFT holds out, to stop early."""

    @classmethod
    def draw(cls, seed: int) -> "Scenario":
        """The scenario of a seed."""
        r = random.Random(seed)
        staleness = r.choice((0, 1, 1, 2))
        weather = CALM
        if r.random() < 0.7:
            weather = Weather(
                delay_s=r.choice((0.005, 0.02, 0.1)),
                late=r.choice((0.0, 0.02, 0.1)),
                late_s=r.choice((1.0, 4.0)),
                lost=r.choice((0.0, 0.01, 0.05)),
                twice=r.choice((0.0, 0.03, 0.15)),
            )
        full_from = r.uniform(0, 8)
        scenario = cls(
            seed=seed,
            staleness=staleness,
            oversample=1.5 if staleness and r.random() < 0.5 else 1.0,
            deterministic=staleness == 0 and r.random() < 0.5,
            drop_zero_variance=r.random() < 0.5,
            workers=r.choice((1, 2, 2, 3)),
            max_concurrent=r.choice((1, 2, 3)),
            prompts=r.choice((4, 5, 7)),
            phases=r.choice((1, 1, 1, 2)),
            scheduler="rloop" if r.random() < 0.25 else "rl",
            rl_steps=r.choice((1, 2, 2, 3)),
            min_experts=r.choice((1, 2, 100)),
            checkpoint_every_s=r.choice((0.0, 2.0, 1e9)),
            deaths=tuple(_death(r) for _ in range(r.choice((0, 1, 1, 2, 2, 3, 4)))),
            buffer_stop=_buffer_stop(r) if r.random() < 0.2 else None,
            fates=tuple(_fate(r) for _ in range(5)),
            weather=weather,
            weather_until=r.uniform(2, 15),
            full_disk=(full_from, full_from + r.uniform(0.1, 3)) if r.random() < 0.12 else (0.0, 0.0),
            refusal=r.choice((0.0, 0.0, 0.05)),
            unstable=r.random() < 0.25,
            ends_early=r.random() < 0.2,
            eval_every=r.choice((None, None, 1, 2)),
            eval_overlap=r.random() < 0.6,
            holdout_frac=r.choice((0.0, 0.5)),
        )
        if r.random() < 0.2:
            scenario = replace(scenario, scheduler=r.choice(("rft-only", "merge", "rl-then-rft-from-end", "vanilla")))
        return replace(scenario, rl_steps=scenario.rl_steps + 2) if scenario.unstable else scenario

    @property
    def schedule(self) -> ScheduleConfig:
        """The phases, as a run would be told."""
        end = PhaseEndConfig(entropy=ENTROPY_FLOOR if self.ends_early else None, patience=1, min_steps=1)
        name = "rloop" if self.scheduler == "rl" else self.scheduler
        return ScheduleConfig(
            scheduler=name, iterations=self.phases, rl_steps=self.rl_steps, min_experts=self.min_experts, end=end
        )

    def make_scheduler(self) -> PhaseScheduler:
        """What decides on the phases."""
        return RLOnly(self) if self.scheduler == "rl" else make_scheduler(self.schedule, warmup=False)


def _death(r: random.Random) -> Death | None:
    role = r.choice(("buffer", "buffer", "buffer", "controller", "controller", "learner", "broadcaster"))
    most = {"buffer": 1000, "controller": 300, "learner": 120, "broadcaster": 120}[role]
    return Death(role, int(math.exp(r.uniform(math.log(3), math.log(most)))), r.random() < 0.5)


def _fate(r: random.Random) -> WorkerFate:
    token_s = r.choice((0.01, 0.02, 0.04)) * r.choice((1, 1, 1, 6))
    draw = r.random()
    if draw < 0.25:
        return WorkerFate(token_s, dies_at=int(math.exp(r.uniform(math.log(3), math.log(300)))))
    if draw < 0.45:
        return WorkerFate(token_s, stop=_stop(r, 8))
    return WorkerFate(token_s)


def _buffer_stop(r: random.Random) -> Stop:
    point = int(math.exp(r.uniform(math.log(10), math.log(800)))) if r.random() < 0.7 else -1
    return Stop(
        r.uniform(0.2, 6),
        r.choice((4.0, 6.0)),
        unreachable=r.random() < 0.8,
        point=point,
        skips=r.randrange(8),
        encore_s=r.uniform(0.1, 2.0) if r.random() < 0.7 else math.inf,
    )


def _stop(r: random.Random, latest: float) -> Stop:
    return Stop(r.uniform(0.2, latest), r.choice((0.5, 4.0, 8.0)), r.random() < 0.6)


@dataclass(frozen=True, slots=True)
class RLOnly:
    """RL phases, each from the weights of the last."""

    scenario: Scenario

    def next(self, done: Sequence[Phase]) -> Phase | None:
        number = len(done)
        if number == self.scenario.phases:
            return None
        start = done[-1].produces if done else "theta-0"
        return Phase("rl", number, start, f"rl-{number}", steps=self.scenario.rl_steps)


def training_prompts(scenario: Scenario) -> list[Prompt]:
    """The data of a scenario."""
    return [_prompt("train", number) for number in range(scenario.prompts)]


def held_out_prompts() -> list[Prompt]:
    """What is evaluated."""
    return [_prompt("eval", 0)]


def _prompt(purpose: str, number: int) -> Prompt:
    text = f"{purpose}-{number}"
    return Prompt(text, text, (1 + number, 2 if purpose == "train" else 3), "reference")
