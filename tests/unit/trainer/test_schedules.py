"""Schedules, written out: which weights each phase starts from and what it makes is the whole of an algorithm."""

from dataclasses import replace

import pytest

from trainer.config import ScheduleConfig
from trainer.phases import Phase
from trainer.schedules import SCHEDULER_NAMES, make_scheduler, walk
from verifiers.plugin import UnknownName


def phases(name: str, iterations: int = 2, warmup: bool = False) -> list[tuple[str, str, str]]:
    config = ScheduleConfig(scheduler=name, iterations=iterations, rl_steps=50)
    return [(p.kind, p.init_from, p.produces) for p in walk(make_scheduler(config, warmup))]


def test_both_halves_of_an_iteration_of_rloop_start_from_the_same_policy():
    assert phases("rloop", 3) == [
        ("rl", "theta-0", "rl-0"),
        ("rft", "theta-0", "theta-1"),
        ("rl", "theta-1", "rl-1"),
        ("rft", "theta-1", "theta-2"),
        ("rl", "theta-2", "rl-2"),
        ("rft", "theta-2", "theta-3"),
    ]


def test_the_ablation_fine_tunes_where_rl_ended():
    assert phases("rl-then-rft-from-end") == [
        ("rl", "theta-0", "rl-0"),
        ("rft", "rl-0", "theta-1"),
        ("rl", "theta-1", "rl-1"),
        ("rft", "rl-1", "theta-2"),
    ]


def test_the_other_ablation_has_the_phases_of_rloop_and_the_experts_of_one_step():
    assert phases("rloop-last-step-only") == phases("rloop")
    made = walk(make_scheduler(ScheduleConfig(scheduler="rloop-last-step-only", iterations=2), False))
    assert [phase.last_steps for phase in made] == [0, 1, 0, 1]


def test_expert_iteration_never_learns_from_rewards():
    assert phases("rft-only") == [
        ("sample", "theta-0", "theta-0"),
        ("rft", "theta-0", "theta-1"),
        ("sample", "theta-1", "theta-1"),
        ("rft", "theta-1", "theta-2"),
    ]


def test_merging_averages_the_start_and_the_end_of_rl():
    config = ScheduleConfig(scheduler="merge", iterations=1, merge_share=0.25)
    _, merged = walk(make_scheduler(config, False))
    assert (merged.kind, merged.init_from, merged.produces) == ("merge", "theta-0", "theta-1")
    assert merged.average == (("theta-0", 0.75), ("rl-0", 0.25))


def test_plain_rl_is_one_phase_as_long_as_all_of_the_others_together():
    lengths = {
        name: sum(p.steps for p in walk(make_scheduler(ScheduleConfig(scheduler=name, iterations=4), False)))
        for name in SCHEDULER_NAMES
    }
    assert set(lengths.values()) == {200}
    assert phases("vanilla", 4) == [("rl", "theta-0", "rl-0")]


def test_plain_rl_that_is_made_longer_goes_on_from_its_end():
    done = walk(make_scheduler(ScheduleConfig(scheduler="vanilla", iterations=2, rl_steps=50), False))
    longer = make_scheduler(ScheduleConfig(scheduler="vanilla", iterations=3, rl_steps=50), False)
    assert longer.next(done) == Phase("rl", 1, "rl-0", "rl-1", steps=50)


def test_plain_rl_that_ended_early_is_over():
    (phase,) = walk(make_scheduler(ScheduleConfig(scheduler="vanilla"), False))
    ended = replace(phase, steps=30, ended="it over-fits")
    assert make_scheduler(ScheduleConfig(scheduler="vanilla"), False).next([ended]) is None


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
def test_a_warm_up_comes_first_and_makes_theta_0(name):
    first, *rest = phases(name, warmup=True)
    assert first == ("warmup", "scratch", "theta-0")
    assert rest == phases(name)


@pytest.mark.parametrize("name", SCHEDULER_NAMES)
def test_what_is_learned_always_gets_a_new_name_and_starts_from_one_that_is_there(name):
    there = {"theta-0"}
    for kind, start, made in phases(name, 4):
        assert start in there
        assert (made in there) == (kind == "sample")
        there.add(made)


def test_an_unknown_schedule_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownName, match="no scheduler is called 'rlop'; did you mean 'rloop'"):
        make_scheduler(ScheduleConfig(scheduler="rlop"), False)


class Listed:
    """A schedule that is written out, then over again."""

    def __init__(self, *phases: Phase, again: bool = False) -> None:
        self._phases = phases
        self._again = again

    def next(self, done: list[Phase]) -> Phase | None:
        place = len(done)
        if self._again:
            return replace(self._phases[0], iteration=place, produces=f"rl-{place}")
        return self._phases[place] if place < len(self._phases) else None


FIRST = Phase("rl", 0, "theta-0", "rl-0", steps=5)


@pytest.mark.parametrize(
    ("schedule", "what"),
    [
        (Listed(FIRST, again=True), "more than 10000 phases; return None"),
        (Listed(FIRST, Phase("sample", 0, "rl-0", "rl-0", steps=5)), "iteration 0 has two phases that explore"),
        (Listed(FIRST, Phase("rft", 0, "theta-0", "rl-0")), "two phases produce 'rl-0'"),
        (Listed(replace(FIRST, produces="rl-0-step-3")), "names with '-step-'"),
    ],
)
def test_a_schedule_that_no_run_could_follow_is_refused(schedule, what):
    with pytest.raises(ValueError, match=what):
        walk(schedule)
