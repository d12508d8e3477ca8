"""One seed: draw, run, check."""

import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from checker import Checker, Rules
from disk import Excavation
from scenario import Scenario, training_prompts
from settings import GROUP_SIZE, GROUPS_PER_STEP, MAX_NEW_TOKENS, RUN_SEED, rollout_config
from world import World

from trainer.phases import Phase


@dataclass(slots=True)
class Outcome:
    """What came of a seed."""

    seed: int
    violation: str = ""
    """Empty: everything is as it must be."""
    lives: int = 0
    lasted: int = 0
    callbacks: int = 0
    seconds: float = 0.0
    """Virtual."""
    faults: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0
    digest: int = 0
    """Of the schedule: two runs of a seed agree in it or did not do the same."""


def run_seed(seed: int, scratch: Path, tell: Callable[[str], None] | None = None) -> Outcome:
    """Run a seed and judge it. `scratch` is a folder for files that decide nothing; it is removed."""
    began = time.process_time()
    scenario = Scenario.draw(seed)
    if tell:
        tell(str(scenario))
    world = World(scenario, scratch, tell)
    outcome = Outcome(seed)
    try:
        world.run()
        Checker(Excavation(world.disk), rules(scenario), world.promises).check()
    except Exception as error:
        outcome.violation = f"{type(error).__name__}: {error}"
        if tell:
            tell(traceback.format_exc())
    outcome.lasted = world.lasted
    outcome.lives, outcome.callbacks, outcome.seconds = world.lives, world.loop.callbacks, world.loop.time()
    outcome.faults, outcome.digest = world.faults.counts, world.network.digest
    outcome.cpu_s = time.process_time() - began
    return outcome


def rules(scenario: Scenario) -> Rules:
    """What the checker must know of a scenario."""
    return Rules(
        run_seed=RUN_SEED,
        staleness=scenario.staleness,
        drop_zero_variance=scenario.drop_zero_variance,
        deterministic=scenario.deterministic,
        max_attempts=rollout_config(scenario).max_attempts,
        prompts={prompt.id: prompt.token_ids for prompt in training_prompts(scenario)},
        groups_per_step=GROUPS_PER_STEP,
        group_size=GROUP_SIZE,
        max_new_tokens=MAX_NEW_TOKENS,
        phases=tuple(_all_phases(scenario)),
        ends_early=scenario.ends_early,
        eval_every=scenario.eval_every,
        eval_overlap=scenario.eval_overlap,
    )


def _all_phases(scenario: Scenario) -> list[Phase]:
    done: list[Phase] = []
    while phase := scenario.make_scheduler().next(done):
        done.append(phase)
    return done
