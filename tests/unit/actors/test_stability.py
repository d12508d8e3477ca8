"""The controller does what the stability guard says: the bound, the weights, the manifest, and a death at any point."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from controller_fakes import Commits, FakeLearner, Mortal, make

from actors.endings import Unstable
from actors.manifest import Manifest
from actors.waiting import PeerLost
from rollout.storage import LocalDisk
from trainer.config import GuardConfig

TWO_IN_A_ROW = GuardConfig(patience=2, max_rollbacks=1)


def diverges(weights: str) -> dict[str, float]:
    """After its third RL step a policy is outside, which the next step finds."""
    return {"mismatch_kl": 0.8 if weights.count("+") > 2 else 0.01}


def unstable(run_dir: Path, metrics: Any = diverges, **changes: Any):
    settings = {"iterations": 1, "rl_steps": 12, "checkpoint_every_s": 0, "max_staleness": 1, "guard": TWO_IN_A_ROW}
    made = make(run_dir, **settings | changes)
    made[1].metrics = metrics
    return made


def staged(learner: FakeLearner) -> dict[int, str]:
    """Version → weights that engines were to take under that number."""
    said = [line.split() for line in learner.log if line.startswith("stage")]
    return {int(version): weights for _, version, weights in said}


def test_a_run_that_diverges_is_tightened_then_rolled_back_then_stopped_with_a_sentence(tmp_path):
    controller, learner, broadcaster, _ = unstable(tmp_path)
    with pytest.raises(Unstable) as stopped:
        asyncio.run(controller.run())
    assert str(stopped.value) == (
        "step 10 of rl-0: mismatch_kl is 0.8, trainer.guard.mismatch_kl allows at most 0.5 (2 steps in a row outside); "
        "the run stops after 1 rollbacks in this phase, of trainer.guard.max_rollbacks=1: start anew, e.g. with a "
        "lower learning rate, or widen the band and resume"
    )
    assert staged(learner) == {
        1: "base",
        2: "base+",
        3: "base++",
        4: "base+++",
        5: "base++++",
        6: "base+++++",  # outside twice: tightened
        7: "base++++++",
        8: "base++",  # outside four times: back to the newest checkpoint that a later step found inside
        9: "base+++",
        10: "base++++",
    }
    assert [line for line in learner.log if line.startswith("tighten")] == ["tighten 0"]
    assert [line for line in learner.log if line.startswith("trained")] == [f"trained {v}" for v in range(2, 12)]
    assert broadcaster.versions == list(range(1, 11))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    ruled = [(row["step"], row["action"], row["mismatch_kl"]) for row in rows if row["phase"] == "guard"]
    assert ruled == [(5, "tighten", 0.8), (7, "roll_back", 0.8), (10, "stop", 0.8)]


def test_a_rollback_waits_for_the_transfer_under_way_and_is_committed_before_an_engine_sees_its_version(tmp_path):
    commits = Commits(tmp_path)
    controller, learner, broadcaster, _ = unstable(tmp_path, storage=commits)
    publish = broadcaster.publish

    async def slow(slot, expected):
        await asyncio.sleep(0.01)
        return await publish(slot, expected)

    broadcaster.publish = slow
    with pytest.raises(Unstable):
        asyncio.run(controller.run())
    steps = ["trained 8", "publish 7", "resume base++", "save base++", "stage 8 base++", "publish 8"]
    after = learner.log[learner.log.index("trained 8") :]
    assert [line for line in after if line in steps][: len(steps)] == steps
    manifest, held = next(seen for seen in commits.seen if seen[0].step == 7)
    assert (manifest.version, manifest.restored, manifest.proven) == (8, ((8, 3),), 7)
    assert manifest.checkpoints == ("checkpoints/steps/rl-0-3", "checkpoints/steps/rl-0-7")
    assert held["checkpoints/steps/rl-0-7"] == "base++"
    assert (manifest.guard.rollbacks, manifest.guard.tightened, manifest.guard.happy) == (1, 1, True)


def test_no_checkpoint_is_taken_while_steps_are_outside_their_bands(tmp_path):
    commits = Commits(tmp_path)
    controller, _, _, _ = unstable(tmp_path, storage=commits)
    with pytest.raises(Unstable):
        asyncio.run(controller.run())
    assert {weights for _, held in commits.seen for weights in held.values()} == {"base+", "base++", "base+++"}


def test_a_stop_request_outside_the_bands_leaves_the_last_good_checkpoint_and_the_steps_are_made_again(tmp_path):
    async def stopped_after_the_fourth_step() -> None:
        controller, _, _, buffer = unstable(tmp_path, guard=GuardConfig(patience=9))
        run = asyncio.create_task(controller.run())
        while buffer.batches < 4:
            await asyncio.sleep(0)
        await controller.stop("Ctrl-C")
        assert (await run).state == "interrupted"

    asyncio.run(stopped_after_the_fourth_step())
    manifest = Manifest.load(LocalDisk(tmp_path))
    assert (manifest.step, manifest.version, manifest.guard.happy) == (3, 4, True)
    controller, learner, _, buffer = unstable(tmp_path, metrics=lambda weights: {})
    asyncio.run(controller.run())
    assert buffer.began[0] == ("rl", 3)
    assert learner.log[0] == "resume base+++"


def test_without_a_checkpoint_the_phase_goes_back_to_the_weights_that_it_started_from(tmp_path):
    controller, learner, _, _ = unstable(tmp_path, checkpoint_every_s=1e9, max_staleness=0, rl_steps=6)
    asyncio.run(controller.run())
    assert staged(learner) == {
        1: "base",
        2: "base+",
        3: "base++",
        4: "base+++",
        5: "base++++",
        6: "base",
        7: "base+",
        8: "basess",
    }
    manifest = Manifest.load(LocalDisk(tmp_path))
    assert manifest.restored == ((6, 1),)
    assert manifest.weights == {"theta-0": "base", "rl-0": "base+", "theta-1": "basess"}
    assert manifest.guard.rollbacks == 0  # the next phase has its own


def test_a_resumed_run_goes_on_where_the_rollback_left_it(tmp_path):
    for _ in range(2):  # the second start comes to the same end
        controller, learner, _, buffer = unstable(tmp_path)
        with pytest.raises(Unstable, match=r"step 10 of rl-0: mismatch_kl is 0\.8"):
            asyncio.run(controller.run())
    assert buffer.began == [("rl", 8)]
    assert staged(learner) == {9: "base+++", 10: "base++++"}
    wider = GuardConfig(mismatch_kl=1.0, patience=2, max_rollbacks=1)
    controller, learner, _, _ = unstable(tmp_path, guard=wider)
    assert asyncio.run(controller.run()).state == "finished"
    assert Manifest.load(LocalDisk(tmp_path)).weights["rl-0"] == "base+++" + "+" * 4  # steps 9 to 12


def test_a_death_at_any_point_of_a_rollback_changes_nothing_that_anybody_has_seen(tmp_path):
    def lives(name: str, dies_at: int) -> tuple[list[str], list[dict[int, str]], Manifest]:
        """What was called until the first death; what engines took in each life; what is committed at last."""
        (tmp_path / name).mkdir()
        calls: list[str] = []
        controller, first, _, _ = unstable(tmp_path / name, wrap=Mortal(calls, dies_at))
        with pytest.raises((Unstable, PeerLost)):
            asyncio.run(controller.run())
        controller, second, _, _ = unstable(tmp_path / name)
        with pytest.raises(Unstable, match="step 10 of rl-0"):
            asyncio.run(controller.run())
        return calls, [staged(first), staged(second)], Manifest.load(LocalDisk(tmp_path / name))

    calls, (undisturbed, _), committed = lives("undisturbed", 10**6)
    points = range(calls.index("trained 7"), calls.index("trained 9") + 3)
    assert "resume" in calls[points.start : points.stop]
    assert len(points) > 20
    for point in points:
        _, taken, manifest = lives(str(point), point)
        for life in taken:
            assert life.items() <= undisturbed.items(), f"death at {calls[point - 1]}, call {point}"
        assert manifest.restored == committed.restored == ((8, 3),)
        assert (manifest.step, manifest.version, manifest.guard) == (8, 9, committed.guard)


def test_fine_tuning_goes_back_when_its_loss_is_not_finite_and_only_then(tmp_path):
    two_of_each = iter([{}, {}, {"skipped": 1.0, "mismatch_kl": 9.0}, {"skipped": 0.0, "mismatch_kl": 9.0}])
    controller, learner, _, _ = unstable(
        tmp_path, lambda weights: next(two_of_each), guard=GuardConfig(patience=1), rl_steps=2
    )
    assert asyncio.run(controller.run()).state == "finished"
    assert [line for line in learner.log if line.startswith("begin")] == ["begin base"] * 4  # open, RL, RFT, again
    manifest = Manifest.load(LocalDisk(tmp_path))
    assert (manifest.weights["theta-1"], manifest.restored) == ("bases", ())


def test_a_warm_up_without_a_checkpoint_has_nothing_to_go_back_to(tmp_path):
    controller, _, _, _ = unstable(
        tmp_path, lambda weights: {"skipped": 1.0}, warmup=True, guard=GuardConfig(patience=1)
    )
    with pytest.raises(Unstable, match="theta-0 has no checkpoint to go back to"):
        asyncio.run(controller.run())
