"""The supervisor's decisions, over actors that exist only on paper."""

import asyncio

import pytest

from actors.pulse import Doing
from actors.records import BufferStatus, RunStatus
from actors.waiting import DeadlineExceeded, PeerLost
from cluster.incidents import GivenUp
from rollout.engine import WeightsMissing
from rollout.event_log import JournalBroken

CORE = ("buffer", "broadcaster", "learner-0", "learner-1", "controller")
WHOLE_CORE_AGAIN = [*(f"{name} restarted" for name in CORE), "connected", "broadcaster join rollout-worker-0"]
CORE_AGAIN = WHOLE_CORE_AGAIN[1:]  # but for the buffer
WORKER_REPLACED = [
    "rollout-worker-0 killed",
    "buffer worker_lost rollout-worker-0",
    "broadcaster leave rollout-worker-0",
    "rollout-worker-1 engine_pids",
    "broadcaster join rollout-worker-1",
    "rollout-worker-1 start",
]


# -- rollout workers ------------------------------------------------------------------------------------------


def test_a_worker_that_dies_is_replaced_and_the_newcomer_has_weights_before_it_works(play):
    async def scene(stage):
        stage.worker("rollout-worker-0").state = "dead"
        await stage.look()

    stage = play(scene)
    assert stage.log == WORKER_REPLACED
    assert list(stage.workforce.workers) == ["rollout-worker-1"]
    assert [(row["victim"], row["noticed"], row["action"]) for row in stage.rows] == [
        ("rollout-worker-0", "its process died: rollout-worker-0 died", "it is replaced")
    ]


def test_a_worker_that_is_ill_by_its_own_account_is_replaced(play):
    async def scene(stage):
        stage.worker("rollout-worker-0").raises["health"] = RuntimeError("the engine process is gone")
        await stage.look()

    stage = play(scene)
    assert stage.log == WORKER_REPLACED
    assert stage.rows[0]["noticed"] == "RuntimeError: the engine process is gone"


def test_a_worker_that_tells_of_the_death_of_another_is_not_reported_as_dead(play):
    async def scene(stage):
        stage.worker("rollout-worker-0").raises["health"] = PeerLost("verifiers died during score")
        await stage.look()

    assert [row["noticed"] for row in play(scene).rows] == ["verifiers died during score"]


def test_a_silent_worker_loses_its_leases_first_and_its_life_later(play):
    async def scene(stage):
        stage.worker("rollout-worker-0").state = "silent"
        await stage.look(after_s=9)
        assert stage.log == []
        assert stage.supervisor.note == ""
        await stage.look(after_s=2)
        await stage.look(after_s=2)
        assert stage.log == ["buffer worker_lost rollout-worker-0"]
        assert stage.supervisor.note == "rollout-worker-0: no answer"
        stage.log.clear()
        await stage.look(after_s=20)

    stage = play(scene)
    assert stage.log == WORKER_REPLACED
    assert stage.rows[0]["noticed"] == "no answer for 33 s, its process is stopped (state T)"


def test_a_worker_that_speaks_again_in_time_lives_on(play):
    async def scene(stage):
        stage.worker("rollout-worker-0").state = "silent"
        await stage.look(after_s=20)
        stage.worker("rollout-worker-0").state = "up"
        await stage.look(after_s=20)
        assert stage.supervisor.note == ""
        await stage.look(after_s=20)

    stage = play(scene)
    assert stage.log == ["buffer worker_lost rollout-worker-0"]
    assert stage.rows == []


def test_an_actor_whose_event_loop_is_stuck_counts_as_silent(play):
    async def scene(stage):
        stage.worker("rollout-worker-0").blocked_s = 31.0
        await stage.look()

    assert play(scene).log == WORKER_REPLACED


def test_a_worker_whose_successor_fails_costs_two_failures_and_is_replaced_by_the_next(play):
    async def scene(stage):
        stage.casting.unfit = {"rollout-worker-1"}
        stage.worker("rollout-worker-0").state = "dead"
        await stage.look()
        await stage.look()

    stage = play(scene)
    assert list(stage.workforce.workers) == ["rollout-worker-2"]
    assert stage.rows[1]["noticed"] == "it did not come back: RuntimeError: no room on any node"


def test_a_worker_replaced_while_the_learning_side_is_lost_is_taken_in_when_that_comes_up(play):
    async def scene(stage):
        stage.worker("rollout-worker-0").state = "dead"
        stage.peers["broadcaster"].state = "dead"
        stage.now += 1
        await stage.supervisor.look()
        stage.peers["broadcaster"].reborn()
        await stage.look()
        await stage.look()

    stage = play(scene)
    assert stage.log.count("rollout-worker-1 start") == 1
    assert list(stage.workforce.workers) == ["rollout-worker-1"]
    assert len(stage.rows) == 2


@pytest.mark.parametrize(("silent_s", "after_s"), [(30, 30), (600, 120)])  # lost by their silence; found in a stall
def test_who_missed_one_pulse_does_not_pay_for_the_time_that_a_dead_node_takes(play, silent_s, after_s):
    async def scene(stage):
        await stage.workforce.hire(3)
        await stage.look(after_s=0)
        for worker in stage.workforce.workers.values():
            worker.state = "silent"
        await stage.look(after_s=after_s - 0.5)
        stage.peers["verifiers"].state = "silent"
        stage.prod_s = 10  # nobody on that node tells a state either
        stage.wait(0.5)
        await stage.supervisor.look()
        stage.peers["verifiers"].state = "up"
        await stage.look()

    rows = play(scene, silent_s=silent_s).rows
    assert sorted(row["victim"] for row in rows) == [f"rollout-worker-{i}" for i in range(4)]


# -- a driver that stands still -------------------------------------------------------------------------------


@pytest.mark.parametrize("within_a_look", [False, True])
def test_while_the_driver_itself_stands_still_nobody_is_silent(play, within_a_look):
    async def scene(stage):
        everybody = [*stage.peers.values(), stage.worker("rollout-worker-0")]
        for peer in everybody:
            peer.state = "silent"  # whoever is asked has no time left when the driver wakes up
        looking = asyncio.ensure_future(stage.supervisor.look())
        if within_a_look:
            await asyncio.sleep(0)  # everybody has been asked
        stage.now += 300
        await looking
        for peer in everybody:
            peer.state = "up"
        await stage.look()
        assert stage.supervisor.note == ""

    stage = play(scene)
    assert (stage.log, stage.rows) == ([], [])


def test_while_the_driver_itself_stands_still_nothing_stalls(play):
    async def scene(stage):
        stage.worker("rollout-worker-0").health |= {"tokens": 512.0, "requests": 16.0}
        await stage.look(after_s=1)
        await stage.look(after_s=100)
        stage.stand_still(300)
        await stage.look(after_s=18)
        assert stage.rows == []
        await stage.look(after_s=2)

    noticed = "no progress for 121 s, and its engine has requests and gave no token for 120 s"
    assert play(scene).rows[0]["noticed"] == noticed


def test_a_worker_is_still_judged_by_its_silence_before_and_after_the_driver_stood_still(play):
    async def scene(stage):
        stage.worker("rollout-worker-0").state = "silent"
        await stage.look(after_s=9)
        stage.stand_still(300)
        await stage.look(after_s=22)

    assert play(scene).rows[0]["noticed"] == "no answer for 31 s, its process is stopped (state T)"


def test_that_answers_are_waited_for_is_no_standstill(play):
    async def scene(stage):
        stage.worker("rollout-worker-0").state = "silent"
        watching = asyncio.ensure_future(stage.supervisor.watch())
        while "rollout-worker-1 start" not in stage.log and stage.now < 1100:
            stage.now += 0.5
            await asyncio.sleep(0.002)  # a look at somebody silent takes ten of these
        stage.run.set_result("finished")
        assert await watching == "finished"

    assert "rollout-worker-1 start" in play(scene).log


# -- verifiers and the learning side --------------------------------------------------------------------------


def test_a_verifier_pool_that_dies_or_hangs_is_started_again_in_place(play):
    async def scene(stage):
        stage.peers["verifiers"].state = "dead"
        stage.now += 1
        await stage.supervisor.look()
        stage.peers["verifiers"].reborn()
        await stage.look()
        assert stage.log == ["verifiers start"]
        stage.peers["verifiers"].state = "silent"
        await stage.look(after_s=31)

    stage = play(scene)
    assert stage.log == ["verifiers start", "verifiers restarted", "verifiers start"]
    assert [row["action"] for row in stage.rows] == ["it starts again"] * 2


@pytest.mark.parametrize("victim", CORE)
def test_when_one_of_the_learning_side_is_killed_the_others_begin_again_with_it_and_the_buffer_goes_on(play, victim):
    async def scene(stage):
        stage.peers[victim].reborn()  # Ray was faster than the next look
        await stage.look()
        assert stage.runs == 2
        await stage.look()  # and now all is well

    stage = play(scene)
    assert stage.log == [line for line in CORE_AGAIN if line != f"{victim} restarted"]
    assert [(row["victim"], row["noticed"]) for row in stage.rows] == [(victim, "its process died")]
    assert "rollout-worker-0" in stage.workforce.workers


@pytest.mark.parametrize("victim", CORE)
def test_when_one_of_the_learning_side_is_silent_it_is_killed_with_the_others_and_begins_again(play, victim):
    async def scene(stage):
        stage.peers[victim].state = "silent"
        await stage.look(after_s=29)
        assert stage.log == []
        assert stage.supervisor.note == f"{victim}: no answer"
        await stage.look(after_s=2)

    stage = play(scene)
    assert stage.log == (WHOLE_CORE_AGAIN if victim == "buffer" else CORE_AGAIN)
    assert stage.rows[0]["noticed"] == "no answer for 31 s, its process is stopped (state T)"


def test_a_buffer_whose_event_loop_is_stuck_begins_again_with_the_others(play):
    async def scene(stage):
        stage.peers["buffer"].blocked_s = 40.0
        await stage.look()

    assert play(scene).log == WHOLE_CORE_AGAIN


def test_a_buffer_that_dies_while_the_others_begin_again_costs_no_second_start(play):
    async def scene(stage):
        bring_up = stage.core._bring_up

        async def with_a_death() -> None:
            await bring_up()
            stage.peers["buffer"].reborn()  # Ray brought it back at once

        stage.core._bring_up = with_a_death
        stage.peers["learner-0"].reborn()
        await stage.look()
        await stage.look()
        assert stage.runs == 2

    assert "buffer restarted" not in play(scene).log


def test_that_the_run_comes_up_again_in_its_phase_is_no_step_of_the_learner(play):
    async def scene(stage):
        stage.supervisor.see(RunStatus(phase="rl", iteration=1, step=40))
        for _ in range(2):
            stage.peers["learner-0"].reborn()
            await stage.look()
            stage.supervisor.see(RunStatus(waiting="learner"))
            stage.supervisor.see(RunStatus(phase="rl", iteration=1, step=38))

    assert play(scene).log.count("buffer restarted") == 1


def test_the_buffer_begins_again_too_when_the_others_did_so_in_vain(play):
    async def scene(stage):
        stage.supervisor.see(RunStatus(phase="rl", step=3))
        stage.peers["learner-0"].reborn()
        await stage.look()
        stage.supervisor.see(RunStatus(phase="rl", step=0))
        stage.supervisor.see(
            RunStatus(phase="rl", step=0, buffer=BufferStatus(reported=99))
        )  # the engines go on, that is all
        stage.peers["learner-0"].reborn()
        await stage.look()
        stage.supervisor.see(RunStatus(phase="rl", step=0))
        stage.supervisor.see(RunStatus(phase="rl", step=1))
        stage.peers["learner-0"].reborn()
        await stage.look()

    log = play(scene).log
    assert [name for name in CORE for line in log if line == f"{name} restarted"].count("buffer") == 1
    assert log.count("connected") == 3
    assert log.index("buffer restarted") > log.index("connected")


@pytest.mark.parametrize(
    "error",
    [
        PeerLost("buffer died during finish"),
        DeadlineExceeded("no answer in 120 s"),
        WeightsMissing("version 7 from learner-0: Connection refused"),
        JournalBroken("no space left on device"),
    ],
)
def test_a_run_that_failed_for_want_of_an_answer_is_taken_up_again(play, error):
    async def scene(stage):
        watching = asyncio.ensure_future(stage.supervisor.watch())
        stage.run.set_exception(error)
        while stage.runs < 2:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        stage.run.set_result("finished")
        assert await watching == "finished"

    stage = play(scene)
    assert stage.log == (WHOLE_CORE_AGAIN if isinstance(error, JournalBroken) else CORE_AGAIN)
    assert stage.rows[0]["victim"] == "the run"
    assert str(error) in stage.rows[0]["noticed"]


def test_what_a_rank_says_of_a_dead_neighbour_is_not_held_against_the_run(play):
    async def scene(stage):
        watching = asyncio.ensure_future(stage.supervisor.watch())
        stage.peers["learner-1"].reborn()
        stage.run.set_exception(RuntimeError("Connection closed by peer"))
        while stage.runs < 2:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        stage.run.set_result("finished")
        assert await watching == "finished"

    assert play(scene).rows[0]["victim"] == "learner-1"


def test_an_error_of_the_run_itself_ends_it_at_once(play):
    async def scene(stage):
        stage.run.set_exception(FloatingPointError("the loss is not finite"))
        with pytest.raises(FloatingPointError):
            await stage.supervisor.watch()

    stage = play(scene)
    assert (stage.log, stage.rows) == ([], [])


# -- the budget and the books ---------------------------------------------------------------------------------


def test_a_spent_budget_ends_the_run_with_a_list_of_what_died_and_when(play):
    async def scene(stage):
        stage.worker("rollout-worker-0").state = "dead"
        await stage.look()
        stage.peers["buffer"].reborn()
        with pytest.raises(GivenUp) as caught:
            await stage.supervisor.look()
        sentence = str(caught.value)
        assert sentence.startswith("2 process failures, actors.restarts allows 1: ")
        assert "rollout-worker-0: its process died: rollout-worker-0 died; " in sentence
        assert "buffer: its process died. " in sentence
        assert "rloop resume" in sentence

    stage = play(scene, restarts=1)
    assert sorted(row["action"] for row in stage.rows) == ["it is replaced", "the run ends"]


def test_an_incident_is_over_when_the_run_progresses_again(play):
    async def scene(stage):
        stage.supervisor.see(RunStatus(phase="rl", step=3))
        stage.peers["controller"].reborn()
        await stage.look()
        stage.supervisor.see(RunStatus(phase="rl", step=0))  # where the run takes itself up: not progress yet
        stage.now += 7
        assert stage.rows == []
        stage.supervisor.see(RunStatus(phase="rl", step=0, buffer=BufferStatus(reported=12)))  # engines never stopped
        assert stage.rows == []
        stage.now += 1
        stage.supervisor.see(RunStatus(phase="rl", step=1, buffer=BufferStatus(reported=12)))

    stage = play(scene)
    assert [(row["victim"], row["recovered_s"]) for row in stage.rows] == [("controller", 8.0)]
    assert stage.supervisor.note == "controller: its process died; the learning side starts again"


# -- stalls ---------------------------------------------------------------------------------------------------


def test_a_stall_is_explained_and_the_learning_side_begins_again_when_everybody_answers(play):
    async def scene(stage):
        stage.supervisor.see(RunStatus(phase="rl", step=3, waiting="buffer: batch 4 of 10 (119 s)"))
        stage.peers["buffer"].doing = (Doing("next_batch", 119.0),)
        await stage.look(after_s=60)
        assert stage.log == []
        await stage.look(after_s=61)

    stage = play(scene)
    assert stage.log == WHOLE_CORE_AGAIN
    assert stage.rows[0]["victim"] == "the run"
    (file,) = (stage.root / "stalls").iterdir()
    text = file.read_text()
    assert "no progress for 121 s" in text
    assert "buffer: batch 4 of 10" in text
    assert "next_batch for 119.0 s" in text


def test_in_a_stall_only_who_is_silent_is_restarted(play):
    async def scene(stage):
        await stage.look(after_s=105)
        stage.worker("rollout-worker-0").state = "silent"
        await stage.look(after_s=16)

    stage = play(scene)
    assert stage.log == ["buffer worker_lost rollout-worker-0", *WORKER_REPLACED]
    assert stage.rows[0]["noticed"] == "no progress for 121 s, and it does not answer"


def test_in_a_stall_a_worker_whose_engine_gives_no_token_for_its_requests_is_replaced(play):
    async def scene(stage):
        stage.worker("rollout-worker-0").health |= {"tokens": 512.0, "requests": 16.0}
        await stage.look()
        await stage.look(after_s=121)

    stage = play(scene)
    assert stage.log == WORKER_REPLACED
    noticed = "no progress for 122 s, and its engine has requests and gave no token for 121 s"
    assert stage.rows[0]["noticed"] == noticed


def test_a_stall_ends_the_run_where_the_configuration_says_so(play):
    async def scene(stage):
        with pytest.raises(GivenUp, match=r"no progress for 121 s .* says who waits for whom; rloop resume goes on"):
            await stage.look(after_s=121)

    assert play(scene, on_stall="abort").log == []


def test_a_long_learner_step_within_its_deadline_is_no_stall(play):
    async def scene(stage):
        stage.peers["learner-1"].doing = (Doing("step", 500.0),)
        await stage.look(after_s=500)
        assert stage.log == []
        stage.peers["learner-1"].doing = (Doing("step", 601.0),)
        await stage.look(after_s=101)
        assert stage.log == []
        await stage.look(after_s=121)

    assert play(scene).log == WHOLE_CORE_AGAIN


def test_a_run_whose_last_worker_has_left_waits_for_room_and_says_so(play):
    async def scene(stage):
        await stage.workforce.let_go("rollout-worker-0")
        stage.log.clear()
        for _ in range(3):
            await stage.look(after_s=100)
        assert stage.supervisor.note == "no rollout worker is left; one joins when a node has room"
        await stage.workforce.recruit(stage.core)
        stage.log.clear()
        await stage.look(after_s=100)
        assert (stage.supervisor.note, stage.log) == ("", [])
        await stage.look(after_s=21)

    (row,) = play(scene).rows
    assert row["noticed"].startswith("no progress for 121 s")


def test_what_a_silent_learner_was_last_seen_doing_is_no_excuse_for_a_stall(play):
    async def scene(stage):
        stage.peers["learner-1"].doing = (Doing("step", 10.0),)
        await stage.look(after_s=10)
        stage.peers["learner-1"].state = "silent"
        await stage.look(after_s=121)

    stage = play(scene, silent_s=600)
    assert stage.rows[0]["victim"] == "learner-1"
    assert stage.rows[0]["noticed"] == "no progress for 121 s, and it does not answer"
