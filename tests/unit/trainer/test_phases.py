from trainer.phases import Phase, RLoopSchedule


def unroll(schedule: RLoopSchedule) -> list[Phase]:
    done: list[Phase] = []
    while phase := schedule.next(done):
        done.append(phase)
    return done


def test_both_halves_of_an_iteration_start_from_the_same_policy():
    phases = unroll(RLoopSchedule(3))
    assert [(p.kind, p.init_from, p.produces) for p in phases] == [
        ("rl", "theta-0", "rl-0"),
        ("rft", "theta-0", "theta-1"),
        ("rl", "theta-1", "rl-1"),
        ("rft", "theta-1", "theta-2"),
        ("rl", "theta-2", "rl-2"),
        ("rft", "theta-2", "theta-3"),
    ]


def test_a_warm_up_comes_first_and_makes_theta_0():
    phases = unroll(RLoopSchedule(1, warmup=True))
    assert [(p.kind, p.init_from, p.produces) for p in phases] == [
        ("warmup", "scratch", "theta-0"),
        ("rl", "theta-0", "rl-0"),
        ("rft", "theta-0", "theta-1"),
    ]


def test_every_phase_produces_a_new_name():
    names = [phase.produces for phase in unroll(RLoopSchedule(4, warmup=True))]
    assert len(names) == len(set(names)) == 9
