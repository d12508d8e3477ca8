"""The controller over fakes: weights are strings, so what a phase starts from can be read."""

import asyncio
import dataclasses
import json
from pathlib import Path

import pytest
from controller_fakes import Commits, make

from actors.endings import EvaluationFailed, NotTheStartingPolicy
from actors.manifest import Manifest
from actors.records import best
from actors.waiting import DeadlineExceeded, PeerLost
from rollout.records import EvalCounts
from rollout.storage import LocalDisk
from trainer.config import PhaseEndConfig, RFTConfig
from trainer.directories import NotWritten


def test_rft_starts_from_the_policy_that_rl_started_from_and_not_from_where_rl_ended(tmp_path):
    controller, learner, _, _ = make(tmp_path)
    status = asyncio.run(controller.run())
    assert status.state == "finished"
    begins = [line for line in learner.log if line.startswith("begin")]
    assert begins == ["begin base", "begin base", "begin base", "begin basess", "begin basess"]
    manifest = Manifest.load(LocalDisk(tmp_path))
    assert manifest.weights == {
        "theta-0": "base",
        "rl-0": "base+++",
        "theta-1": "basess",
        "rl-1": "basess+++",
        "theta-2": "basessss",
    }
    assert manifest.started_from == {"rl-0": "base", "theta-1": "base", "rl-1": "basess", "theta-2": "basess"}


def test_version_numbers_only_grow_although_weights_jump_back(tmp_path):
    controller, _, broadcaster, _ = make(tmp_path)
    asyncio.run(controller.run())
    assert broadcaster.versions == sorted(set(broadcaster.versions))
    assert len(broadcaster.versions) == 1 + 3 + 1 + 3 + 1  # initial, RL steps, RFT, RL steps, RFT


def test_trained_is_durable_before_the_version_reaches_an_engine_and_admission_moves_last(tmp_path):
    controller, learner, _, _ = make(tmp_path, iterations=1)
    asyncio.run(controller.run())
    for version in (2, 3, 4):
        order = [learner.log.index(line) for line in (f"trained {version}", f"publish {version}", f"admit {version}")]
        assert order == sorted(order)


def test_every_named_policy_is_evaluated_once_in_order(tmp_path):
    controller, _, _, _ = make(tmp_path)
    status = asyncio.run(controller.run())
    assert [row.weights for row in status.evals] == ["theta-0", "rl-0", "theta-1", "rl-1", "theta-2"]
    assert status.evals[0].metrics["pass@1"] == pytest.approx(0.5)


def test_a_warm_up_makes_theta_0_before_anything_else(tmp_path):
    controller, _, _, buffer = make(tmp_path, iterations=1, warmup=True)
    status = asyncio.run(controller.run())
    assert buffer.began[0] == ("warmup.parquet", 0)
    assert [row.weights for row in status.evals] == ["theta-0", "rl-0", "theta-1"]
    assert Manifest.load(LocalDisk(tmp_path)).weights["theta-0"] == "basess"


def test_with_too_few_experts_rft_is_skipped_and_the_starting_policy_kept(tmp_path):
    controller, _, _, _ = make(tmp_path, iterations=1, experts=1)
    asyncio.run(controller.run())
    weights = Manifest.load(LocalDisk(tmp_path)).weights
    assert weights["theta-1"] == weights["theta-0"] == "base"
    rows = Manifest.load(LocalDisk(tmp_path)).evals
    assert rows[-1].after == "iteration 1, RFT skipped: 1 expert answers"  # the table does not claim an RFT


def test_with_too_few_experts_the_end_of_rl_is_kept_if_the_run_says_so(tmp_path):
    controller, _, _, _ = make(tmp_path, iterations=1, experts=1, schedule={"if_too_few": "keep_rl"})
    asyncio.run(controller.run())
    manifest = Manifest.load(LocalDisk(tmp_path))
    assert manifest.weights["theta-1"] == manifest.weights["rl-0"] == "base+++"
    assert manifest.done[-1].init_from == "rl-0"


@pytest.mark.parametrize(("if_too_few", "kept"), [("keep_start", "base"), ("keep_rl", "base+++")])
def test_what_is_kept_does_not_depend_on_what_rft_would_have_started_from(tmp_path, if_too_few, kept):
    schedule = {"if_too_few": if_too_few}
    controller, _, _, _ = make(tmp_path, iterations=1, experts=1, scheduler="rl-then-rft-from-end", schedule=schedule)
    asyncio.run(controller.run())
    assert Manifest.load(LocalDisk(tmp_path)).weights["theta-1"] == kept


@pytest.mark.parametrize(
    ("scheduler", "weights"),
    [
        ("vanilla", {"theta-0": "base", "rl-0": "base++++++"}),
        ("rft-only", {"theta-0": "base", "theta-1": "basess", "theta-2": "basessss"}),
        (
            "rl-then-rft-from-end",
            {
                "theta-0": "base",
                "rl-0": "base+++",
                "theta-1": "base+++ss",
                "rl-1": "base+++ss+++",
                "theta-2": "base+++ss+++ss",
            },
        ),
        (
            "merge",
            {
                "theta-0": "base",
                "rl-0": "base+++",
                "theta-1": "0.5*base|0.5*base+++",
                "rl-1": "0.5*base|0.5*base++++++",
                "theta-2": "0.5*0.5*base|0.5*base+++|0.5*0.5*base|0.5*base++++++",
            },
        ),
    ],
)
def test_a_schedule_makes_its_weights_of_those_that_it_names(tmp_path, scheduler, weights):
    controller, learner, _, _ = make(tmp_path, scheduler=scheduler)
    status = asyncio.run(controller.run())
    assert status.state == "finished"
    assert Manifest.load(LocalDisk(tmp_path)).weights == weights
    assert [row.weights for row in status.evals] == list(weights)
    evaluated = {line.split()[2] for line in learner.log if line.startswith("stage")}
    assert set(weights.values()) <= evaluated  # every one of them was in the engines


@pytest.mark.parametrize(
    ("scheduler", "evaluated"),
    [("rloop", ["theta-0", "theta-1", "theta-2"]), ("vanilla", ["theta-0", "rl-0"])],
)
def test_the_end_of_rl_is_not_evaluated_if_the_run_says_so_and_another_phase_follows(tmp_path, scheduler, evaluated):
    controller, _, _, _ = make(tmp_path, scheduler=scheduler, after_rl=False)
    status = asyncio.run(controller.run())
    assert [row.weights for row in status.evals] == evaluated
    assert "rl-0" in Manifest.load(LocalDisk(tmp_path)).weights


def test_a_phase_that_samples_asks_for_as_many_groups_as_the_steps_of_rl_take(tmp_path):
    controller, _, _, buffer = make(tmp_path, iterations=1, rl_steps=7, scheduler="rft-only")
    asyncio.run(controller.run())
    assert buffer.began == [("sample", 7), ("iteration-0.parquet", 0)]


def test_training_goes_on_during_an_evaluation_in_the_middle_of_a_phase(tmp_path):
    controller, _, _, buffer = make(tmp_path, iterations=1, rl_steps=5, every_steps=2)
    counted, steps = buffer.eval_result, []

    async def slowly(timeout_s: float) -> list[EvalCounts]:
        began = buffer.batches
        while began == 3 and buffer.batches < 4:
            await asyncio.sleep(0)
        steps.append((began, buffer.batches))
        return await counted(timeout_s)

    buffer.eval_result = slowly
    status = asyncio.run(controller.run())
    assert (3, 4) in steps  # the evaluation after step 2 was asked for with step 3, its answer came with step 4
    named = ["theta-0", "rl-0-step-2", "rl-0-step-4", "rl-0", "theta-1"]
    assert [row.weights for row in status.evals] == named
    assert [row.step for row in status.evals] == [0, 2, 4, 0, 0]
    numbers = [row.number for row in status.evals]
    assert numbers == sorted(set(numbers))
    assert [row.weights for row in Manifest.load(LocalDisk(tmp_path)).evals] == named


def test_without_overlap_a_step_waits_for_the_evaluation_before_it(tmp_path):
    controller, learner, _, _ = make(tmp_path, iterations=1, rl_steps=4, every_steps=2, eval_overlap=False)
    asyncio.run(controller.run())
    at = learner.log.index("eval", learner.log.index("trained 3"))
    assert learner.log.index("admit 3") < at < learner.log.index("trained 4")


def test_of_the_weights_in_the_middle_of_a_phase_the_best_are_kept_if_they_are_better_than_all_named_ones(tmp_path):
    """Correct answers of four: 2 of the base, then 1, 4, 3 in the middle of RL, 2 at its end, 3 after RFT."""
    controller, _, _, buffer = make(tmp_path, iterations=1, rl_steps=4, every_steps=1, keep_best=True)
    scores = iter((2, 1, 4, 3, 2, 3))
    asked: dict[int, int] = {}

    async def counted(timeout_s: float) -> list[EvalCounts]:
        correct = asked.setdefault(buffer.log.count("eval"), -1)
        if correct < 0:
            correct = asked[buffer.log.count("eval")] = next(scores)
        return [EvalCounts("e0", "t", attempts=4, correct=correct, failed=0, truncated=0, tokens=40)]

    buffer.eval_result = counted
    status = asyncio.run(controller.run())
    assert [row.weights for row in status.evals if row.kept] == ["theta-0", "rl-0-step-2", "rl-0", "theta-1"]
    assert best(status.evals, "pass@1").weights == "rl-0-step-2"
    kept = {path.name for path in (tmp_path / "checkpoints").glob("*-step-*")}
    assert kept == {"rl-0-step-2"}
    assert (tmp_path / "checkpoints" / "rl-0-step-2" / "weights" / "weights").read_text() == "base++"


def test_saving_what_may_be_the_best_waits_for_the_checkpoint_under_way(tmp_path):
    controller, learner, _, _ = make(
        tmp_path, iterations=1, rl_steps=6, every_steps=2, keep_best=True, checkpoint_every_s=0.0
    )
    learner.disk_takes = 5  # the fake refuses a second save while one is under way
    assert asyncio.run(controller.run()).state == "finished"


def test_an_evaluation_that_a_checkpoint_found_under_way_is_taken_up_by_the_next_start(tmp_path):
    async def stopped_during_an_evaluation() -> str:
        controller, _, _, buffer = make(tmp_path, iterations=1, rl_steps=5, every_steps=2)
        counted = buffer.eval_result

        async def never_after_the_first(timeout_s: float) -> list[EvalCounts]:
            if buffer.batches >= 2:
                await asyncio.sleep(1e9)
            return await counted(timeout_s)

        buffer.eval_result = never_after_the_first
        run = asyncio.create_task(controller.run())
        while buffer.batches < 3:
            await asyncio.sleep(0)
        await controller.stop("Ctrl-C")
        return (await run).state

    assert asyncio.run(stopped_during_an_evaluation()) == "interrupted"
    assert Manifest.load(LocalDisk(tmp_path)).evaluating == ((3, 2),)
    controller, _, _, _ = make(tmp_path, iterations=1, rl_steps=5, every_steps=2)
    status = asyncio.run(controller.run())
    assert [row.weights for row in status.evals] == ["theta-0", "rl-0-step-2", "rl-0-step-4", "rl-0", "theta-1"]


def test_a_phase_ends_when_a_signal_says_so_and_the_log_says_which(tmp_path):
    end = {"end": PhaseEndConfig(entropy=0.5, patience=2, min_steps=1)}
    controller, learner, _, _ = make(tmp_path, iterations=1, rl_steps=9, schedule=end)
    learner.metrics = lambda weights: {"entropy": 0.9 - 0.2 * weights.count("+")}  # .9, .7, .5, .3, .1
    status = asyncio.run(controller.run())
    manifest = Manifest.load(LocalDisk(tmp_path))
    assert manifest.weights == {"theta-0": "base", "rl-0": "base+++++", "theta-1": "basess"}
    assert (manifest.done[0].steps, manifest.done[0].ended) == (
        5,
        "entropy is 0.1, below schedule.end.entropy=0.5, 2 steps in a row",
    )
    assert status.evals[1].after == "iteration 1, after RL"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in lines if line["phase"] == "phase_end"] == [manifest.done[0].ended]


def test_a_phase_that_a_record_ends_is_not_judged_again(tmp_path):
    """The step was recorded as the last one by a start that died before its checkpoint."""
    controller, _, _, buffer = make(tmp_path, iterations=1, rl_steps=9)
    given = buffer.next_batch

    async def on_record(timeout_s: float):
        info, batch = await given(timeout_s)
        ends = "it forgets" if buffer.batches == 4 else ""
        return dataclasses.replace(info, recorded=5 - buffer.batches if buffer.batches < 5 else 0, ends=ends), batch

    buffer.next_batch = on_record
    asyncio.run(controller.run())
    manifest = Manifest.load(LocalDisk(tmp_path))
    assert (manifest.done[0].steps, manifest.done[0].ended, manifest.weights["rl-0"]) == (4, "it forgets", "base++++")


@pytest.mark.parametrize(
    ("losses", "kept", "steps"),
    [
        ((1.0, 0.5, 0.7), "basessss", 6),  # the end is past the minimum
        ((1.0, 1.2, 0.1), "basess", 4),  # patience is over before the loss falls again
        ((1.0, 0.5, 0.2), "basessssss", 6),
    ],
)
def test_fine_tuning_ends_where_its_held_out_loss_was_lowest(tmp_path, losses, kept, steps):
    rft = RFTConfig(holdout_frac=0.1, check_every=2, patience=1)
    controller, learner, _, buffer = make(tmp_path, iterations=1, rft=rft)
    buffer.sft_steps = 6
    learner.losses = {"base" + "s" * made: loss for made, loss in zip((2, 4, 6), losses, strict=True)}
    asyncio.run(controller.run())
    manifest = Manifest.load(LocalDisk(tmp_path))
    assert manifest.weights["theta-1"] == kept
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    looks = [line["heldout_nll"] for line in lines if "heldout_nll" in line]
    assert looks == list(losses[: steps // 2])
    assert bool(manifest.done[-1].ended) == (kept != "base" + "s" * 6)
    assert f"stage 5 {kept}" in learner.log  # what the engines got is what was kept


def test_the_best_step_of_fine_tuning_outlives_later_checkpoints_and_a_death(tmp_path):
    rft = RFTConfig(holdout_frac=0.1, check_every=1, patience=3)

    def after(made: int) -> float:
        return {1: 1.0, 2: 0.5}.get(made, 0.9)

    def started(dies: bool):
        controller, learner, _, buffer = make(tmp_path, iterations=1, rft=rft, checkpoint_every_s=0.0)
        buffer.sft_steps = 9
        learner.losses = {"base" + "s" * made: after(made) for made in range(1, 10)}
        if dies:
            learner.losses["base" + "s" * 5] = None  # what fails where the loss of step 5 is asked for
        return controller

    with pytest.raises(TypeError):
        asyncio.run(started(dies=True).run())
    assert Manifest.load(LocalDisk(tmp_path)).lowest.checkpoint == "checkpoints/steps/rft-0-2"
    asyncio.run(started(dies=False).run())
    assert Manifest.load(LocalDisk(tmp_path)).weights["theta-1"] == "basess"


def test_a_stop_request_checkpoints_and_a_resumed_run_ends_with_the_same_weights(tmp_path):
    async def interrupted() -> str:
        controller, _, _, buffer = make(tmp_path)
        run = asyncio.create_task(controller.run())
        while buffer.batches < 2:
            await asyncio.sleep(0)
        await controller.stop("Ctrl-C")
        return (await run).state

    assert asyncio.run(interrupted()) == "interrupted"
    stopped = Manifest.load(LocalDisk(tmp_path))
    assert stopped.phase is not None
    assert (stopped.phase.kind, stopped.step) == ("rl", 2)
    controller, learner, _, buffer = make(tmp_path)
    assert asyncio.run(controller.run()).state == "finished"
    assert learner.log[0] == "resume base++"
    assert buffer.began[0] == ("rl", 2)
    assert Manifest.load(LocalDisk(tmp_path)).weights["theta-2"] == "basessss"
    assert not list((tmp_path / "checkpoints" / "steps").glob("*"))  # nothing half-finished stays behind


def test_a_stall_ends_the_run_with_what_it_waited_for(tmp_path):
    controller, _, _, buffer = make(tmp_path)
    buffer.hang = True
    with pytest.raises(TimeoutError, match="0 of 4 groups ready"):
        asyncio.run(controller.run())
    assert "0 of 4 groups ready" in asyncio.run(controller.status()).message


def test_weights_changed_behind_our_back_are_refused(tmp_path):
    controller, learner, _, _ = make(tmp_path, iterations=1)
    export = learner.export

    async def corrupt(directory: str) -> None:
        await export(directory)
        if "theta-0" in directory:
            Path(directory).with_name("weights").joinpath("weights").write_text("something else")

    learner.export = corrupt
    with pytest.raises(NotTheStartingPolicy, match="must start from theta-0"):
        asyncio.run(controller.run())


def test_metrics_are_a_line_per_step_and_evaluation(tmp_path):
    controller, _, _, _ = make(tmp_path, iterations=1)
    asyncio.run(controller.run())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    phases = [line["phase"] for line in lines if line["phase"] != "sync"]
    assert phases == ["eval", "rl", "rl", "rl", "eval", "rft", "rft", "eval"]
    assert [line["version"] for line in lines if line["phase"] == "rl"] == [2, 3, 4]
    assert [line["version"] for line in lines if line["phase"] == "sync"] == [1, 2, 3, 4, 5]


def test_the_manifest_says_in_which_tiers_code_of_answers_ran(tmp_path):
    controller, _, _, _ = make(tmp_path, iterations=1)
    asyncio.run(controller.run())
    assert Manifest.load(LocalDisk(tmp_path)).isolation == ("A", "B")


def test_a_run_is_not_taken_up_under_another_configuration(tmp_path):
    controller, _, _, _ = make(tmp_path, iterations=1)
    asyncio.run(controller.run())
    manifest = Manifest.load(LocalDisk(tmp_path))
    dataclasses.replace(manifest, config_digest="other").save(LocalDisk(tmp_path))
    with pytest.raises(ValueError, match="written under another configuration"):
        make(tmp_path, iterations=1)


def test_an_evaluation_without_verdicts_is_never_committed(tmp_path):
    controller, _, _, buffer = make(tmp_path, iterations=1)

    async def no_verdicts(timeout_s: float) -> list[EvalCounts]:
        return [EvalCounts(prompt_id="e0", tag="t", attempts=4, correct=0, failed=3, truncated=0, tokens=40)]

    buffer.eval_result = no_verdicts
    with pytest.raises(EvaluationFailed, match="75% of the answers of theta-0 have no verdict"):
        asyncio.run(controller.run())
    manifest = Manifest.load(LocalDisk(tmp_path))
    assert (manifest.evals, manifest.weights, manifest.failed_evals) == ((), {}, (1,))  # the next start draws anew


def test_a_run_goes_on_after_an_evaluation_failed_behind_a_phase_without_steps(tmp_path):
    controller, _, _, buffer = make(tmp_path, iterations=1, experts=1)  # too few: RFT is skipped
    answered = buffer.eval_result

    async def no_verdicts_on_the_third(timeout_s: float) -> list[EvalCounts]:
        if buffer.log.count("eval") == 3:
            return [EvalCounts(prompt_id="e0", tag="t", attempts=4, correct=0, failed=4, truncated=0, tokens=40)]
        return await answered(timeout_s)

    buffer.eval_result = no_verdicts_on_the_third
    with pytest.raises(EvaluationFailed, match="100% of the answers of theta-1"):
        asyncio.run(controller.run())
    again, _, _, _ = make(tmp_path, iterations=1, experts=1)
    assert asyncio.run(again.run()).state == "finished"
    assert list(Manifest.load(LocalDisk(tmp_path)).weights) == ["theta-0", "rl-0", "theta-1"]


def test_a_schedule_that_ends_before_the_phase_under_way_is_an_error_and_not_a_finished_run(tmp_path):
    async def interrupted_in_the_second_iteration() -> None:
        controller, _, _, buffer = make(tmp_path, iterations=2)
        run = asyncio.create_task(controller.run())
        while buffer.batches < 3 + 2 + 2:
            await asyncio.sleep(0)
        await controller.stop("Ctrl-C")
        await run

    asyncio.run(interrupted_in_the_second_iteration())
    shortened, _, _, _ = make(tmp_path, iterations=1)
    with pytest.raises(RuntimeError, match=r"resume with as many schedule\.iterations as it was begun with"):
        asyncio.run(shortened.run())


def test_a_committed_checkpoint_is_not_written_again(tmp_path):
    """Rewriting in place would leave a moment in which the manifest names a directory that is not there."""

    async def stopped_twice_at_the_same_step() -> int:
        controller, _, _, buffer = make(tmp_path)
        run = asyncio.create_task(controller.run())
        while buffer.batches < 2:
            await asyncio.sleep(0)
        await controller.stop("Ctrl-C")
        await run
        (checkpoint,) = (tmp_path / "checkpoints" / "steps").iterdir()
        return (checkpoint / "weights").stat().st_mtime_ns

    async def resumed_and_stopped_before_the_next_batch() -> None:
        controller, _, _, buffer = make(tmp_path)
        buffer.hang = True
        run = asyncio.create_task(controller.run())
        await asyncio.sleep(0.02)
        await controller.stop("Ctrl-C")
        assert (await run).state == "interrupted"

    written = asyncio.run(stopped_twice_at_the_same_step())
    asyncio.run(resumed_and_stopped_before_the_next_batch())
    (checkpoint,) = (tmp_path / "checkpoints" / "steps").iterdir()
    assert (checkpoint / "weights").stat().st_mtime_ns == written


def test_the_next_step_begins_while_the_engines_take_the_weights_of_the_last(tmp_path):
    for overlap in (True, False):
        (tmp_path / str(overlap)).mkdir()
        controller, learner, broadcaster, buffer = make(tmp_path / str(overlap), iterations=1, overlap=overlap)
        publish, next_batch = broadcaster.publish, buffer.next_batch

        async def slow(slot, expected, publish=publish):
            await asyncio.sleep(0.01)
            return await publish(slot, expected)

        async def noted(timeout_s, next_batch=next_batch, learner=learner):
            learner.log.append("next batch")
            return await next_batch(timeout_s)

        broadcaster.publish, buffer.next_batch = slow, noted
        asyncio.run(controller.run())
        after = learner.log[learner.log.index("trained 2") :]
        assert (after.index("next batch") < after.index("publish 2")) == overlap
        assert after.index("publish 2") < after.index("trained 3") + 3  # and staging waits for the transfer before
        assert after.index("publish 2") < after.index("stage 3 base++")


def test_a_transfer_that_fails_ends_the_wait_for_a_batch_that_would_never_come(tmp_path):
    controller, _, broadcaster, buffer = make(tmp_path, iterations=1)
    publish, next_batch = broadcaster.publish, buffer.next_batch

    async def fails(slot, expected):
        if slot.version == 2:
            raise PeerLost("broadcaster died during publish")
        return await publish(slot, expected)

    async def waits(timeout_s):
        if buffer.batches:
            await asyncio.sleep(60)
        return await next_batch(timeout_s)

    broadcaster.publish, buffer.next_batch = fails, waits
    with pytest.raises(PeerLost, match="died during publish"):
        asyncio.run(asyncio.wait_for(controller.run(), 5))


def test_every_start_of_a_run_gives_the_same_weights_the_same_number(tmp_path):
    """The first start dies in RL before a checkpoint; the second begins the phase anew, under the same version."""

    async def dies() -> None:
        controller, learner, _, _ = make(tmp_path, iterations=1)

        async def step(batch, objective):
            raise PeerLost("learner-0 died during step")

        learner.step = step
        with pytest.raises(PeerLost):
            await controller.run()

    asyncio.run(dies())
    controller, learner, broadcaster, _ = make(tmp_path, iterations=1)
    asyncio.run(controller.run())
    assert broadcaster.versions[0] == 1  # the base policy was version 1 before
    assert [line for line in learner.log if line.startswith("trained")] == ["trained 2", "trained 3", "trained 4"]


def test_a_step_is_committed_as_it_was_saved_when_it_is_on_the_disk_and_training_has_gone_on(tmp_path):
    commits = Commits(tmp_path)
    controller, learner, _, _ = make(tmp_path, iterations=1, rl_steps=8, checkpoint_every_s=0, storage=commits)
    learner.disk_takes = 3
    asyncio.run(controller.run())
    steps = [(m, held) for m, held in commits.seen if m.phase and m.phase.kind == "rl"]
    assert [m.step for m, _ in steps] == [1, 4, 7, 8]  # of 2 and 3, 5 and 6 the save before was still under way
    for manifest, held in steps:
        assert held[manifest.checkpoint] == "base" + "+" * manifest.step
        assert manifest.version == 1 + manifest.step
    began = [line for line in learner.log if line.startswith(("save base+", "trained"))]
    assert began.index("trained 4") < began.index("save base++++")
    assert began[:2] == ["trained 2", "save base+"]


def test_the_last_checkpoints_of_a_phase_stay_and_the_older_go_once_the_newer_is_committed(tmp_path):
    commits = Commits(tmp_path)
    controller, _, _, _ = make(tmp_path, iterations=1, rl_steps=5, checkpoint_every_s=0, storage=commits)
    asyncio.run(controller.run())
    before: tuple[str, ...] = ()
    for manifest, held in commits.seen:
        assert {*before, *manifest.checkpoints} <= held.keys()
        assert len(held) <= 3
        before = manifest.checkpoints
    last = [m.checkpoints for m, _ in commits.seen if m.phase and m.phase.kind == "rl"][-1]
    assert last == ("checkpoints/steps/rl-0-4", "checkpoints/steps/rl-0-5")
    assert not list((tmp_path / "checkpoints" / "steps").iterdir())  # a finished phase needs none


def dies_in_the_fifth_step(run_dir: Path, disk_takes: int, checkpoint_every_s: float = 0) -> None:
    """A run of six steps whose learner is lost; a checkpoint is durable so many steps after it was begun."""

    async def run() -> None:
        controller, learner, _, _ = make(run_dir, iterations=1, rl_steps=6, checkpoint_every_s=checkpoint_every_s)
        learner.disk_takes, step = disk_takes, learner.step

        async def dies_in_the_fifth(batch, objective):
            if learner.weights == "base++++":
                raise PeerLost("learner-0 died during step")
            return await step(batch, objective)

        learner.step = dies_in_the_fifth
        with pytest.raises(PeerLost):
            await controller.run()

    asyncio.run(run())


def test_a_death_while_a_checkpoint_is_written_costs_the_steps_since_the_one_before(tmp_path):
    dies_in_the_fifth_step(tmp_path, disk_takes=2)
    (tmp_path / "checkpoints" / "steps" / ".rl-0-3.draft").mkdir()
    controller, learner, _, buffer = make(tmp_path, iterations=1, rl_steps=6)
    asyncio.run(controller.run())
    assert learner.log[0] == "resume base+"
    assert buffer.began[0] == ("rl", 1)
    assert next(line for line in learner.log if line.startswith("trained")) == "trained 3"
    assert Manifest.load(LocalDisk(tmp_path)).weights["rl-0"] == "base++++++"
    assert not list((tmp_path / "checkpoints" / "steps").iterdir())


@pytest.mark.parametrize("checkpoint_every_s", [0, 1e9])
def test_when_only_the_learner_was_lost_engines_keep_their_weights_until_it_is_where_they_are(
    tmp_path, checkpoint_every_s
):
    """A learner dies in the fifth step, with a checkpoint of the second or with none; the buffer never stopped."""

    dies_in_the_fifth_step(tmp_path, disk_takes=3, checkpoint_every_s=checkpoint_every_s)
    controller, learner, broadcaster, buffer = make(tmp_path, iterations=1, rl_steps=6)
    done = 0 if checkpoint_every_s else 1
    buffer.goes_on = 4 - done
    asyncio.run(controller.run())
    trained = [line for line in learner.log if line.startswith("trained")]
    assert trained == [f"trained {version}" for version in range(2 + done, 8)]
    assert broadcaster.versions[:3] == [5, 6, 7]
    assert ("rl", done) not in buffer.began
    assert Manifest.load(LocalDisk(tmp_path)).weights["rl-0"] == "base++++++"


def test_engines_that_are_not_behind_are_attested_again_before_the_next_step(tmp_path):
    """Nothing is to be trained again, but nobody knows how far the last transfer came."""
    controller, _, broadcaster, buffer = make(tmp_path, iterations=1)
    buffer.goes_on = 0
    asyncio.run(controller.run())
    assert broadcaster.versions[:3] == [1, 1, 2]  # the base policy, and again where its phase goes on


def test_a_full_disk_does_not_end_the_run_while_there_is_a_checkpoint_to_come(tmp_path):
    commits = Commits(tmp_path)
    controller, learner, _, _ = make(tmp_path, iterations=1, rl_steps=5, checkpoint_every_s=0, storage=commits)
    step, save, told = learner.step, learner.save, []

    async def told_before(batch, objective):
        told.append((await controller.status()).message)
        return await step(batch, objective)

    async def full_at_steps_2_and_3(directory: str, optimizer: bool) -> None:
        learner.full_disk = learner.weights in ("base++", "base+++")
        await save(directory, optimizer)

    learner.step, learner.save = told_before, full_at_steps_2_and_3
    assert asyncio.run(controller.run()).state == "finished"
    committed = [m for m, _ in commits.seen if m.phase and m.phase.kind == "rl"]
    assert [m.step for m in committed] == [1, 4, 5]
    assert committed[1].checkpoints == ("checkpoints/steps/rl-0-1", "checkpoints/steps/rl-0-4")
    assert "rl-0-3 could not be written" in told[4]
    assert told[5] == ""


@pytest.mark.parametrize("when", ["last step", "phase end"])
def test_a_full_disk_at_the_end_of_a_phase_ends_the_run_and_the_next_start_goes_on(tmp_path, when):
    controller, learner, _, buffer = make(tmp_path, iterations=1)
    ended, end_phase, save = [], buffer.end_phase, learner.save

    async def noted() -> None:
        ended.append(learner.weights)
        await end_phase()

    async def full(directory: str, optimizer: bool) -> None:
        learner.full_disk = learner.weights == "base+++" and optimizer == (when == "last step")
        await save(directory, optimizer)

    buffer.end_phase, learner.save = noted, full
    with pytest.raises(NotWritten, match="rl-0-3" if when == "last step" else "rl-0/weights"):
        asyncio.run(controller.run())
    assert ("base+++" in ended) == (when == "phase end")  # else the buffer still has what the steps are made from
    again, _, _, buffer = make(tmp_path, iterations=1)
    assert asyncio.run(again.run()).state == "finished"
    assert buffer.began[0] == ("rl", 0 if when == "last step" else 3)


def test_a_stop_request_waits_for_the_disk_and_says_when_it_refused(tmp_path):
    async def stopped(run_dir: Path, full: bool):
        controller, learner, _, buffer = make(run_dir, rl_steps=9, checkpoint_every_s=0)
        learner.disk_takes, learner.full_disk = 100, False
        run = asyncio.create_task(controller.run())
        while buffer.batches < 4:
            await asyncio.sleep(0)
        learner.full_disk = full
        await controller.stop("Ctrl-C")
        return await run

    for full in (False, True):
        (tmp_path / str(full)).mkdir()
        status = asyncio.run(stopped(tmp_path / str(full), full))
        assert status.state == "interrupted"
        manifest = Manifest.load(LocalDisk(tmp_path / str(full)))
        assert manifest.step == (0 if full else 4)
        assert ("could not be written" in status.message) == full


def test_a_checkpoint_that_does_not_come_to_an_end_is_given_up_with_a_sentence(tmp_path):
    controller, learner, _, _ = make(tmp_path, iterations=1)

    async def never(timeout_s: float) -> bool:
        await asyncio.sleep(0.01)
        return False

    learner.saved = never
    with pytest.raises(DeadlineExceeded, match=r"waits for checkpoint theta-0: not durable in 0\.05 s"):
        asyncio.run(controller.run())


def test_a_checkpoint_that_is_written_for_ever_while_training_goes_on_is_given_up_too(tmp_path):
    controller, learner, _, _ = make(tmp_path, iterations=1, rl_steps=50, checkpoint_every_s=0)
    learner.disk_takes, step = 1000, learner.step

    async def takes_time(batch, objective):
        await asyncio.sleep(0.02)
        return await step(batch, objective)

    learner.step = takes_time
    with pytest.raises(DeadlineExceeded, match=r"checkpoint checkpoints/steps/rl-0-1: not durable in 0.05 s"):
        asyncio.run(controller.run())
    assert len(learner.weights) < len("base") + 10
