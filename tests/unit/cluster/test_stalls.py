from actors.pulse import Doing, Pulse
from actors.waiting import Wait
from cluster.stalls import Silent, explain


def pulse(name: str, doing: tuple[Doing, ...] = (), waits: tuple[Wait, ...] = (), blocked_s: float = 0.0) -> Pulse:
    return Pulse(name, 4711, 0.0, "node", 12, blocked_s, doing, waits)


def test_a_stall_is_explained_by_waits_work_and_silence(tmp_path):
    (tmp_path / "rollout-worker-0.stacks").write_text("\n".join(f"line {i}" for i in range(50)))
    worker = pulse("rollout-worker-0", (Doing("generate", 30.0), Doing("probe", 2.0), Doing("generate", 31.0)))
    text = explain(
        "no progress for 120 s",
        [
            pulse(
                "controller",
                (Doing("run", 300.0),),
                (Wait("controller waits for buffer.next_batch", 121.04, 480.0),),
            ),
            pulse("broadcaster", (), (Wait("version 4 waits for rollout-worker-0", 12.0, float("inf")),), 3.5),
            worker,
        ],
        [Wait("driver waits for the pulse of rollout-worker-0", 1.5, 2.0)],
        [Silent(worker, 31.2, "T")],
        tmp_path,
    )
    assert text.splitlines() == [
        "no progress for 120 s",
        "",
        "who waits for whom:",
        "    121.0 s of    480 s  controller waits for buffer.next_batch",
        "     12.0 s of no limit  broadcaster: version 4 waits for rollout-worker-0",
        "      1.5 s of      2 s  driver waits for the pulse of rollout-worker-0",
        "",
        "what each is doing:",
        "  broadcaster (process 4711, 12 done): nothing; its event loop has stood still for 3.5 s",
        "  controller (process 4711, 12 done): run for 300.0 s",
        "  rollout-worker-0 (process 4711, 12 done): 2 × generate, the longest for 31.0 s, probe for 2.0 s",
        "",
        "who is silent:",
        "  rollout-worker-0, process 4711, not heard of for 31.2 s, its process is stopped (state T)",
        *(f"    line {i}" for i in range(20, 50)),
    ]
