"""Two whole runs of one recipe: one is left alone, in the other somebody dies or hangs again and again."""

import json
import random
import signal

import pytest
from findings import same_distribution
from siege import Outcome, Shot, besiege

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # on a busy machine; three to four minutes on two idle cores

SEED = 3
FALSE_ALARM = 1e-3
STEPS = 40  # of each of two phases: enough for six hits, also on a fast machine
PHASES = ["schedule.iterations=2", f"schedule.rl_steps={STEPS}"]
OTHERS = ("buffer", "controller", "broadcaster")


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Outcome:
    return besiege(tmp_path_factory.mktemp("runs") / "untouched", SEED, [], PHASES)


@pytest.fixture(scope="module")
def besieged(tmp_path_factory) -> Outcome:
    draw = random.Random(SEED)
    shots = [
        *(Shot(victim, signal.SIGKILL) for victim in ("engine", "learner rank", draw.choice(OTHERS))),
        *(Shot(victim, signal.SIGSTOP) for victim in ("worker", "learner rank")),
    ]
    in_turn = [*draw.sample(shots, len(shots)), Shot("scorer", signal.SIGKILL)]
    return besiege(tmp_path_factory.mktemp("runs") / "besieged", SEED, in_turn, PHASES, print)


def test_a_run_without_faults_ends_well(untouched):
    assert (untouched.trouble, untouched.finding.verdict) == ("", "")


def test_the_run_survives_every_hit_and_leaves_no_process_behind(besieged):
    assert besieged.trouble == ""
    assert len(besieged.hits) >= 5  # it may have been over before the last
    assert all(hit.survived for hit in besieged.hits)


def test_a_rank_was_lost_and_the_phase_went_on_with_the_buffer_and_engines_that_it_had(besieged):
    assert {hit.shot.signal for hit in besieged.hits if hit.shot.victim == "learner rank"}
    assert besieged.finding.went_on >= 1


def test_whoever_was_lost_is_told_and_every_engine_had_the_weights_that_it_said(besieged):
    incidents = [json.loads(line) for line in (besieged.run_dir / "incidents.jsonl").read_text().splitlines()]
    actions = {incident["victim"].rstrip("-0123456789"): incident["action"] for incident in incidents}
    assert actions["rollout-worker"] == "it is replaced"
    metrics = [json.loads(line) for line in (besieged.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert max(row["probe_max_diff"] for row in metrics if row["phase"] == "sync") < 1e-3


def test_the_balance_closes_with_nothing_lost_and_nothing_trained_twice(besieged):
    finding = besieged.finding
    assert (finding.verdict, finding.lost, finding.doubled) == ("", 0, 0)


def test_faults_do_not_change_how_long_trained_answers_are(untouched, besieged):
    alone, under_faults = untouched.finding.trained, besieged.finding.trained
    assert alone.total() >= 16 * 2 * STEPS * 0.95 <= under_faults.total()  # siblings without a verdict are left out
    assert same_distribution(alone, under_faults) >= FALSE_ALARM
