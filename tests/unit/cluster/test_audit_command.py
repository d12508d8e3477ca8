import asyncio
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from actors.manifest import Manifest
from cluster.audit import show_balance
from cluster.exits import Exit
from cluster.fields import as_yaml
from cluster.provenance import show_checkpoint, show_sample
from cluster.settings import Refused, load
from rollout.events import (
    Discarded,
    Event,
    Finished,
    Leased,
    PayloadRef,
    PhaseBegun,
    Progressed,
    Released,
    Trained,
)
from rollout.events import (
    Refused as TurnedAway,
)
from rollout.expert_rule import ExpertRule
from rollout.experts import select_experts
from rollout.journal import Journal
from rollout.payloads import pieces_to_batch, to_batch
from rollout.records import GroupKey, GroupProgress, Piece, Prompt, Rollout, RolloutGroup, Segment
from rollout.storage import LocalDisk
from trainer.phases import Phase
from verifiers.records import Verdict

RECIPE = Path(__file__).parents[3] / "recipes" / "demo.yaml"
A, B, C = (GroupKey("train", 0, f"toy/{name}") for name in "abc")


def group(key: GroupKey, version: int) -> RolloutGroup:
    """Two answers of three tokens, the first one right."""
    rollouts = []
    for i, reward in enumerate((1.0, 0.0)):
        ids = np.array([ord(key.prompt_id[-1]), i, version], np.int32)
        segment = Segment(ids, np.zeros(3, np.float32), np.full(3, version, np.int32), "stop")
        verdict = Verdict(reward, "correct" if reward else "wrong", "exact", "1", feedback=f"[note] {i}")
        rollouts.append(
            Rollout(key.prompt_id, i, np.array([1], np.int32), segment, np.ones(3, np.bool_), verdict, "finished")
        )
    return RolloutGroup(key, Prompt(key.prompt_id, "?", (1,), "!"), tuple(rollouts))


def delivered(key: GroupKey, batch: int, version: int, worker: str = "w0", attempt: int = 0) -> list[Event]:
    return [
        Leased(key, worker, attempt),
        Finished(key, worker, attempt, PayloadRef(1, batch), version, version, "buffered"),
    ]


def piece(key: GroupKey, sample: int, tokens: int, version: int) -> Piece:
    """The first tokens of an answer of `group`."""
    ids = [ord(key.prompt_id[-1]), sample, version][:tokens]
    return Piece(sample, "answer", 0, Segment.of(ids, [0.0] * tokens, [version] * tokens, None))


REPORTS = [GroupProgress(B, 0, (piece(B, 0, 1, 2), piece(B, 1, 2, 2))), GroupProgress(B, 1, (piece(B, 1, 1, 2),))]
EVENTS = [
    PhaseBegun("rl", 0, 1, 2),
    *delivered(A, 0, 1),
    Trained((A,), 2),
    Leased(B, "w0", 0),
    Progressed(B, "w0", 0, PayloadRef(1, 0), 3),
    Released(B, "expired"),
    Discarded(B, (1,), 2, "stale", (2,)),
    Leased(B, "w1", 1),
    TurnedAway(B, "w0", 0, "finish", "leased", 6),
    Progressed(B, "w1", 1, PayloadRef(1, 1), 1),
    Finished(B, "w1", 1, PayloadRef(1, 1), 2, 2, "buffered"),
    PhaseBegun("rl", 0, 2, 2, 1),  # a restart after step 1
    Trained((B,), 3),
    PhaseBegun("rl", 1, 4, 2),
    *delivered(C, 2, 4),
    Trained((C,), 5),
]


def make_run(directory: Path, events: Sequence[Event] = EVENTS, then: Sequence[Event] = (), rl_steps: int = 2) -> Path:
    """A run of two iterations: the second one has trained one step of two. `then` happens after the first RFT."""
    run = directory / "run"
    run.mkdir()
    config = load(RECIPE, ["rollout.group_size=2", "rollout.max_staleness=1", f"schedule.rl_steps={rl_steps}"])
    (run / "config.yaml").write_text(as_yaml(config))

    async def write(payloads: Sequence[tuple[GroupKey, int]], events: Sequence[Event]) -> None:
        journal = Journal(LocalDisk(run / "journal"), "d" * 64)
        for key, version in payloads:
            journal.add(to_batch(group(key, version), int(key is C), version - 1))
        for report in REPORTS:
            journal.add_pieces(pieces_to_batch(report))
        for event in events:
            journal.post(event)
        await journal.close()

    asyncio.run(write([(A, 1), (B, 2), (C, 4)], events))
    (run / "experts").mkdir()
    rule = ExpertRule(1.0, 8, seed=0)
    select_experts(LocalDisk(run / "journal"), 0, rule, run / "experts" / "iteration-0.parquet")
    asyncio.run(write([], then))
    done = (Phase("warmup", 0, "scratch", "theta-0"), Phase("rl", 0, "theta-0", "rl-0", steps=rl_steps))
    rft, second = Phase("rft", 0, "theta-0", "theta-1"), Phase("rl", 1, "theta-1", "rl-1", steps=rl_steps)
    weights = {"theta-0": "x", "rl-0": "y", "theta-1": "z"}
    Manifest("digest", done=(*done, rft), phase=second, step=1, version=5, weights=weights).save(LocalDisk(run))
    return run


def shown(ask: Callable[[Console], Exit]) -> tuple[Exit, str]:
    """The answer, and its text with runs of blanks made one."""
    console = Console(record=True, width=110, file=io.StringIO())
    code = ask(console)
    return code, "\n".join(" ".join(line.split()) for line in console.export_text().splitlines())


def test_a_sound_run_is_shown_on_one_screen_and_ends_with_code_0(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    code, text = shown(lambda console: show_balance(run, console, tmp_path / "a.json"))
    assert code == Exit.DONE
    assert "rl 0 2 2 2 - - - - -" in text
    assert "whole run 3 3 3 - - - - -" in text
    assert "trained 3 6 18 90.0%" in text
    assert "discarded: stale - 1 2 10.0%" in text
    assert "issued 3 6 20" in text
    assert "refused: late 1 3" in text
    assert "finished, for training 6 3 3 3 3" in text
    assert "recycled: finished under a later lease 2 3 3 3 3" in text
    assert "discarded: started again 1 2 2 2 2" in text
    assert "Leases: 4 (3 finished, 1 expired)" in text
    assert "Tokens generated but never trained: 5 of 23 (21.7%): 3 refused: late, 2 discarded: stale" in text
    assert "The journal was opened 2 times." in text
    assert "Age of trained tokens in versions: 0: 100.0%; the bound is 1" in text
    assert "The balance closes" in text
    assert len(text.splitlines()) < 40
    numbers = json.loads((tmp_path / "a.json").read_text())
    assert (numbers["closes"], numbers["faults"], numbers["events"]) == (True, [], len(EVENTS) + 2)
    assert numbers["starts"] == 2
    tokens = {"generated": 18, "trained": 18, "known": 20, "discarded/stale": 2, "refused/late": 3, "recycled": 6}
    assert numbers["run"]["tokens"] == tokens
    assert numbers["run"]["refused"] == {"late": 1}
    assert numbers["run"]["tokens_never_trained"] == {"discarded/stale": 2, "refused/late": 3}
    assert numbers["phases"][1] | {"leases": 0} == {
        "kind": "rl",
        "iteration": 1,
        "steps": 1,
        "groups": {"issued": 1, "trained": 1},
        "samples": {"issued": 2, "generated": 2, "trained": 2},
        "tokens": {"generated": 6, "known": 6, "trained": 6},
        "leases": 0,
        "refused": {},
        "tokens_never_trained": {},
        "ages": {"0": 6},
        "length_quantiles": {"generated": [3, 3, 3, 3], "trained": [3, 3, 3, 3]},
    }


def test_a_run_that_does_not_close_says_why_and_ends_with_code_1(tmp_path: Path) -> None:
    run = make_run(tmp_path, then=[Trained((C,), 6)])
    code, text = shown(lambda console: show_balance(run, console, None))
    assert code == Exit.FAILED
    assert "* train/0/toy/c was trained 2 times, at versions [5, 6]" in text
    assert "rl 1: groups issued 1, accounted for 2" in text


def test_committed_steps_without_a_record_are_a_fault(tmp_path: Path) -> None:
    run = make_run(tmp_path, EVENTS[:-1], rl_steps=3)
    code, text = shown(lambda console: show_balance(run, console, None))
    assert code == Exit.FAILED
    assert "manifest.json has 3 steps of rl 0, the journal 2" in text
    assert "manifest.json has 1 steps of rl 1, the journal 0" in text


def test_a_checkpoint_names_the_phases_that_made_it_back_to_the_first(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    _, text = shown(lambda console: show_checkpoint(run, "rl-0", console))
    assert "rl theta-0 rl-0 2 steps (versions 2-3), 2 groups of 2 prompts, 4 answers, 12 tokens" in text
    assert "warmup scratch theta-0 76,800 demonstrations" in text
    _, text = shown(lambda console: show_checkpoint(run, "theta-1", console))
    assert "rft theta-0 theta-1 2 expert answers to 2 prompts, 6 tokens; answers by RL step done: 0:1 1:1" in text
    assert "rl-0" not in text  # RFT starts from theta-0 again


def test_a_version_stands_for_the_steps_up_to_it(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    _, text = shown(lambda console: show_checkpoint(run, "2", console))
    assert "rl theta-0 version 2 1 steps (versions 2-2), 1 groups of 1 prompts, 2 answers, 6 tokens" in text
    _, text = shown(lambda console: show_checkpoint(run, "5", console))
    assert "rft theta-0 theta-1 2 expert answers" in text
    assert "rl theta-1 version 5 1 steps (versions 5-5), 1 groups" in text
    _, text = shown(lambda console: show_checkpoint(run, "4", console))  # what iteration 1 began with
    assert "rft theta-0 theta-1" in text
    assert "version 4" not in text


def test_steps_that_were_rolled_back_are_not_in_the_weights(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    replace(Manifest.load(LocalDisk(run)), restored=((3, 2),)).save(LocalDisk(run))
    _, text = shown(lambda console: show_checkpoint(run, "rl-0", console))
    assert "1 steps (versions 2-3), 1 groups of 1 prompts, 2 answers, 6 tokens; 1 rolled back" in text.replace(
        "\n", " "
    )


def test_a_prompt_tells_its_life_and_its_answers(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    _, text = shown(lambda console: show_sample(run, "toy/b", console))
    for line in (
        "6 train epoch 0 rl 0 leased by w0, attempt 0",
        "7 train epoch 0 rl 0 progressed 3 tokens by w0, attempt 0: answer 0 has 1, answer 1 has 2",
        "8 train epoch 0 rl 0 released expired",
        "9 train epoch 0 rl 0 discarded 2 tokens of answers 1: stale",
        "10 train epoch 0 rl 0 leased by w1, attempt 1",
        "11 train epoch 0 rl 0 refused finish of w0, attempt 0, 6 tokens: the group was leased",
        "12 train epoch 0 rl 0 progressed 1 tokens by w1, attempt 1: answer 1 has 1",
        "13 train epoch 0 rl 0 finished by w1, versions 2-2: buffered",
        "15 train epoch 0 rl 0 trained made version 3",
        "13 0 correct 1 3 2 stop [note] 0",
        "13 1 wrong 0 3 2 stop [note] 1",
    ):
        assert line in text


def test_one_answer_tells_only_what_concerns_it(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    _, text = shown(lambda console: show_sample(run, "toy/b/0", console))
    assert "13 0 correct" in text
    assert "13 1 wrong" not in text
    events = [line.split()[0] for line in text.splitlines() if "train epoch" in line]
    assert events == ["6", "7", "8", "10", "11", "13", "15"]  # 9 and 12 are about its sibling


def test_an_answer_under_way_tells_how_far_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path, EVENTS[:6])
    _, text = shown(lambda console: show_sample(run, "toy/b/1", console))
    assert "7 train epoch 0 rl 0 progressed 3 tokens by w0, attempt 0: answer 0 has 1, answer 1 has 2" in text
    assert "No answer to it has been finished." in text


def test_what_a_restart_takes_up_again_is_part_of_a_prompts_life(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*EVENTS[:-4], Leased(C, "w0", 0), PhaseBegun("rl", 0, 2, 2, 1)])
    _, text = shown(lambda console: show_sample(run, "toy/a", console))
    assert "to be trained again" not in text  # the checkpoint has that step
    _, text = shown(lambda console: show_sample(run, "toy/b", console))
    assert "17 train epoch 0 rl 0 to be trained again made version 3; taken up after 1 steps" in text
    _, text = shown(lambda console: show_sample(run, "toy/c", console))
    assert "17 train epoch 0 rl 0 lease voided by a phase that began" in text


def test_what_is_not_there_is_refused_with_what_is(tmp_path: Path) -> None:
    run, console = make_run(tmp_path), Console(file=io.StringIO())
    with pytest.raises(Refused, match="has no prompt 'toy/x'"):
        show_sample(run, "toy/x", console)
    with pytest.raises(Refused, match="has no answer 7 to 'toy/a'; leave out the index"):
        show_sample(run, "toy/a/7", console)
    with pytest.raises(Refused, match="no weights 'rl-9'; it has theta-0, rl-0, theta-1"):
        show_checkpoint(run, "rl-9", console)
    with pytest.raises(Refused, match="version 99 was made by no RL step"):
        show_checkpoint(run, "99", console)
    with pytest.raises(Refused, match="not a run directory"):
        show_balance(tmp_path, console, None)
    (run / "journal" / "events.log").unlink()
    with pytest.raises(Refused, match="has no journal yet"):
        show_balance(run, console, None)
