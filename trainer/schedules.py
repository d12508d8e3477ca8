"""Which phases a run has. RLoop is one schedule among others; choosing one is a line in a recipe.

rloop                  RL from θᵢ, then RFT of θᵢ on the successes of the whole phase   (2511.04285, Algorithm 1)
vanilla                one RL phase as long as all of RLoop's
rft-only               sampling from θᵢ without learning, then RFT of θᵢ: expert iteration
rl-then-rft-from-end   RLoop's ablation: RFT of where RL ended, not of θᵢ
rloop-last-step-only   RLoop's ablation: experts of the last RL step only
merge                  RL from θᵢ, then the weighted average of θᵢ and where RL ended
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.config import ScheduleConfig
from trainer.phases import Phase, PhaseScheduler
from verifiers.plugin import by_path

Cycle = Callable[[int, ScheduleConfig], tuple[Phase, ...]]
"""(iteration i, settings) to the phases that make θᵢ₊₁ of θᵢ, always as many."""
SchedulerFactory = Callable[[ScheduleConfig, bool], PhaseScheduler]
"""(settings, whether a warm-up makes θ₀) to a scheduler: what a plug-in is."""


@dataclass(frozen=True, slots=True)
class Cycles:
    """The same phases in every iteration, after an optional warm-up that makes θ₀."""

    cycle: Cycle
    config: ScheduleConfig
    warmup: bool = False

    def next(self, done: Sequence[Phase]) -> Phase | None:
        """The next phase, or None when every iteration is through."""
        if self.warmup and not done:
            return _WARMUP
        iteration, place = divmod(len(done) - self.warmup, len(self.cycle(0, self.config)))
        return self.cycle(iteration, self.config)[place] if iteration < self.config.iterations else None


@dataclass(frozen=True, slots=True)
class Vanilla:
    """Plain RL: one phase of iterations × rl_steps steps, after an optional warm-up that makes θ₀.

    A finished run that is made longer goes on in a further phase, from where RL ended, with a fresh optimizer.
    """

    config: ScheduleConfig
    warmup: bool = False

    def next(self, done: Sequence[Phase]) -> Phase | None:
        """The next phase, or None when all steps are planned for."""
        if self.warmup and not done:
            return _WARMUP
        phases = done[self.warmup :]
        if phases and phases[-1].ended:
            return None
        missing = self.config.iterations * self.config.rl_steps - sum(phase.steps for phase in phases)
        start = phases[-1].produces if phases else _theta(0)
        number = len(phases)
        return Phase("rl", number, start, f"rl-{number}", steps=missing) if missing > 0 else None


def rloop(i: int, config: ScheduleConfig) -> tuple[Phase, ...]:
    """RL from θᵢ, RFT of θᵢ."""
    return _rl(i, config), Phase("rft", i, _theta(i), _theta(i + 1))


def rloop_last_step_only(i: int, config: ScheduleConfig) -> tuple[Phase, ...]:
    """RL from θᵢ, RFT of θᵢ on what RL's last policy found."""
    return _rl(i, config), Phase("rft", i, _theta(i), _theta(i + 1), last_steps=1)


def rl_then_rft_from_end(i: int, config: ScheduleConfig) -> tuple[Phase, ...]:
    """RL from θᵢ, RFT of where it ended."""
    explored = _rl(i, config)
    return explored, Phase("rft", i, explored.produces, _theta(i + 1))


def rft_only(i: int, config: ScheduleConfig) -> tuple[Phase, ...]:
    """Sampling from θᵢ, RFT of θᵢ."""
    sampled = Phase("sample", i, _theta(i), _theta(i), steps=config.rl_steps)
    return sampled, Phase("rft", i, _theta(i), _theta(i + 1))


def merge(i: int, config: ScheduleConfig) -> tuple[Phase, ...]:
    """RL from θᵢ, then a step of `merge_share` of the way from θᵢ to where it ended."""
    explored, share = _rl(i, config), config.merge_share
    average = ((_theta(i), 1 - share), (explored.produces, share))
    return explored, Phase("merge", i, _theta(i), _theta(i + 1), average=average)


CYCLES: dict[str, Cycle] = {
    "rloop": rloop,
    "rloop-last-step-only": rloop_last_step_only,
    "rl-then-rft-from-end": rl_then_rft_from_end,
    "rft-only": rft_only,
    "merge": merge,
}
SCHEDULER_NAMES = ("vanilla", *CYCLES)


def make_scheduler(config: ScheduleConfig, warmup: bool) -> PhaseScheduler:
    """The scheduler that the configuration names.

    Raises:
        UnknownName: When there is none of that name.
    """
    if config.scheduler == "vanilla":
        return Vanilla(config, warmup)
    if config.scheduler in CYCLES:
        return Cycles(CYCLES[config.scheduler], config, warmup)
    factory: SchedulerFactory = by_path(config.scheduler, "scheduler", SCHEDULER_NAMES)
    return factory(config, warmup)


def walk(scheduler: PhaseScheduler) -> list[Phase]:
    """All phases of a schedule.

    Raises:
        ValueError: When it has no end, or phases that a run cannot tell apart; the message says which.
    """
    done: list[Phase] = []
    explored: set[int] = set()
    made: set[str] = set()
    while phase := scheduler.next(done):
        done.append(phase)
        if len(done) > _MOST_PHASES:
            raise ValueError(f"it has more than {_MOST_PHASES} phases; return None when the run is complete")
        if phase.kind in ("rl", "sample"):
            if phase.iteration in explored:
                raise ValueError(f"iteration {phase.iteration} has two phases that explore; give each its own number")
            explored.add(phase.iteration)
        if phase.kind != "sample" and phase.produces in made:
            raise ValueError(f"two phases produce {phase.produces!r}; weights need names of their own")
        if "-step-" in phase.produces or "/" in phase.produces:
            raise ValueError(f"weights may not be called {phase.produces!r}: names with '-step-' or '/' are taken")
        made.add(phase.produces)
    return done


_MOST_PHASES = 10_000
_WARMUP = Phase("warmup", 0, init_from="scratch", produces="theta-0")


def _rl(i: int, config: ScheduleConfig) -> Phase:
    return Phase("rl", i, _theta(i), f"rl-{i}", steps=config.rl_steps)


def _theta(i: int) -> str:
    return f"theta-{i}"
