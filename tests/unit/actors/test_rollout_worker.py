"""The worker over a fake engine that answers `n` tokens, one per loop turn, and fake peers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from actors.rollout_worker import RolloutWorker
from actors.waiting import DeadlineExceeded, PeerAway, PeerLost
from rollout.engine import EngineDead, WeightsDisagree, WeightsMissing
from rollout.event_log import JournalBroken
from rollout.records import (
    FinishReason,
    GenerationRequest,
    GroupKey,
    GroupProgress,
    Lease,
    Piece,
    Prompt,
    Rollout,
    RolloutGroup,
    Sampling,
    Segment,
)
from rollout.seeds import sample_seed
from rollout.workflows import single_turn
from verifiers.records import ScoreRequest, Verdict

PROMPT = Prompt(id="p0", text="2+2=", token_ids=(5, 6), reference="4")


class FakeEngine:
    def __init__(self, tokens: int = 4, dies: bool = False, last: FinishReason = "stop", pause: float = 0.0) -> None:
        self.tokens, self.dies, self.last, self.version = tokens, dies, last, 0
        self.pause = pause
        self.given: Counter[str] = Counter()
        self.requests: list[GenerationRequest] = []
        self.aborted: list[str] = []

    async def generate(self, request: GenerationRequest) -> AsyncIterator[Segment]:
        self.requests.append(request)
        for index in range(self.tokens):
            await asyncio.sleep(self.pause)
            if self.dies:
                raise EngineDead("its process is gone")
            if request.id in self.aborted:
                yield Segment.of([], [], [], "abort")
                return
            last = index == self.tokens - 1
            self.given[request.id] += 1
            yield Segment(
                np.array([index], np.int32),
                np.array([-0.5], np.float32),
                np.array([self.version], np.int32),
                self.last if last else None,
            )

    async def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    pause_s, slots = 0.0, 64

    async def load_weights(self, slot) -> None:
        self.version = slot.version

    async def logprobs(self, sequences):
        return [np.zeros(len(s) - 1, np.float32) for s in sequences]

    def pids(self) -> list[int]:
        return [1]

    async def close(self) -> None: ...


class FakeBuffer:
    """Hands out `groups` leases, remembers what comes back."""

    def __init__(self, groups: int) -> None:
        self.left = [
            Lease(GroupKey("train", 0, f"p{i}"), PROMPT, 3, Sampling(8, 1.0, seed=7), attempt=2) for i in range(groups)
        ]
        self.finished: list[RolloutGroup] = []
        self.largest_request = 0
        self.taken_away: list[GroupKey] = []
        self.unwanted: list[GroupKey] = []
        self.reports: list[GroupProgress] = []
        self.given_back: list[tuple[GroupProgress, str]] = []

    async def lease(self, worker: str, version: int, max_groups: int, wait_s: float) -> list[Lease]:
        self.largest_request = max(self.largest_request, max_groups)
        given, self.left = self.left[:max_groups], self.left[max_groups:]
        if not given:
            await asyncio.sleep(0.01)
        return given

    async def report(self, worker: str, progress) -> list[GroupKey]:
        self.reports += progress
        return self.taken_away

    async def revoked(self, worker: str, wait_s: float) -> list[GroupKey]:
        await asyncio.sleep(0.01)
        return self.unwanted

    async def give_back(self, worker: str, progress, reason: str = "given_back") -> None:
        self.given_back += [(group, reason) for group in progress]
        self.unwanted = []

    async def finish(self, worker: str, attempt: int, group: RolloutGroup) -> bool:
        assert attempt == 2
        self.finished.append(group)
        return True


class FakeVerifiers:
    def __init__(self, broken: bool = False, seconds: float = 0.0) -> None:
        self.broken, self.seconds = broken, seconds
        self.sizes: list[int] = []
        self.requests: list[ScoreRequest] = []

    async def score(self, requests):
        if self.broken:
            raise ConnectionError("the pool is gone")
        self.requests += requests
        self.sizes.append(len(requests))
        await asyncio.sleep(self.seconds)
        return [Verdict(1.0, "correct", "fake", "1") for _ in requests]


async def until_sampled(engine: FakeEngine, tokens: int) -> None:
    """The engine has given so many tokens, over all requests."""
    while sum(engine.given.values()) < tokens:
        await asyncio.sleep(0.001)


def run(engine, buffer, verifiers, until, max_concurrent=2, patience=0.3, workflow=single_turn):
    async def main() -> RolloutWorker:
        worker = RolloutWorker(
            "w0",
            lambda: engine,
            lambda: lambda ids: "".join(map(str, ids)),
            buffer,
            verifiers,
            max_concurrent,
            0.02,
            0.3,
            patience,
            workflow,
        )
        await worker.start()
        async with asyncio.timeout(5):
            while not until():
                await asyncio.sleep(0.001)
                await worker.health()
        await worker.close()
        return worker

    return asyncio.run(main())


def test_every_leased_group_comes_back_whole_and_scored():
    buffer, verifiers = FakeBuffer(5), FakeVerifiers()
    run(FakeEngine(), buffer, verifiers, lambda: len(buffer.finished) == 5)
    assert {group.key.prompt_id for group in buffer.finished} == {f"p{i}" for i in range(5)}
    for group in buffer.finished:
        assert [r.sample_index for r in group.rollouts] == [0, 1, 2]
        assert group.rollouts[0].response.token_ids.tolist() == [0, 1, 2, 3]
        assert group.rewards.tolist() == [1.0, 1.0, 1.0]
    assert verifiers.requests[0] == ScoreRequest("2+2=", "0123", "4", truncated=False)


def test_it_never_asks_for_more_than_it_has_room_for():
    buffer = FakeBuffer(9)
    run(FakeEngine(), buffer, FakeVerifiers(), lambda: len(buffer.finished) == 9, max_concurrent=2)
    assert buffer.largest_request == 2


def test_seeds_come_from_the_sample_and_not_from_the_attempt():
    engine, buffer = FakeEngine(), FakeBuffer(1)
    run(engine, buffer, FakeVerifiers(), lambda: len(buffer.finished) == 1)
    key = GroupKey("train", 0, "p0")
    assert [r.seed for r in engine.requests] == [sample_seed(7, key, index) for index in range(3)]
    assert len({r.seed for r in engine.requests}) == 3
    assert all(r.id.endswith("/2") for r in engine.requests)  # the attempt names the request, nothing else


def test_a_broken_verifier_pool_is_an_error_verdict_and_never_reward_zero():
    buffer = FakeBuffer(1)
    run(FakeEngine(), buffer, FakeVerifiers(broken=True), lambda: len(buffer.finished) == 1)
    rollout = buffer.finished[0].rollouts[0]
    assert (rollout.status, rollout.verdict.status, rollout.verdict.reward) == ("failed", "error", None)
    assert "the pool is gone" in rollout.verdict.feedback
    assert not rollout.trainable


def test_a_dead_engine_ends_the_worker_with_its_reason():
    with pytest.raises(EngineDead, match="its process is gone"):
        run(FakeEngine(dies=True), FakeBuffer(1), FakeVerifiers(), lambda: False)


def test_a_lease_that_was_taken_away_is_aborted_in_the_engine():
    engine, buffer = FakeEngine(tokens=10**9), FakeBuffer(1)
    buffer.taken_away = [GroupKey("train", 0, "p0")]
    run(engine, buffer, FakeVerifiers(), lambda: len(engine.aborted) == 3)
    assert buffer.finished == []


def test_a_verifier_pool_that_died_ends_the_worker_instead_of_failing_answer_after_answer():
    verifiers = FakeVerifiers()

    async def lost(requests):
        raise PeerLost("verifiers died during score")

    verifiers.score = lost
    with pytest.raises(EngineDead, match="PeerLost: verifiers died"):
        run(FakeEngine(), FakeBuffer(1), verifiers, lambda: False)


def test_an_answer_that_the_engine_cut_off_is_a_failure_whatever_the_verifier_says_of_it():
    engine, buffer = FakeEngine(tokens=2, last="abort"), FakeBuffer(1)
    run(engine, buffer, FakeVerifiers(), lambda: len(buffer.finished) == 1)
    assert {r.status for r in buffer.finished[0].rollouts} == {"failed"}
    assert not any(r.trainable for r in buffer.finished[0].rollouts)


def test_a_verdict_on_an_answer_that_was_cut_off_is_not_kept_for_the_whole_one():
    class Cut(FakeEngine):
        async def generate(self, request):
            if "/2/answer" in request.id:
                await asyncio.sleep(60)  # so that the group stays, and is reported
            async for piece in super().generate(request):
                yield piece

    engine, buffer, verifiers = Cut(tokens=2, last="abort"), FakeBuffer(1), FakeVerifiers()
    reports_then = []

    def until() -> bool:
        if len(verifiers.requests) == 2:
            reports_then.append(len(buffer.reports))
        return bool(reports_then) and len(buffer.reports) > reports_then[0] + 2

    run(engine, buffer, verifiers, until)
    assert all(piece.verdict is None for report in buffer.reports for piece in report.pieces)


def test_a_verdict_that_is_none_is_asked_for_again():
    buffer, verifiers = FakeBuffer(1), FakeVerifiers()
    whole = Segment.of([1, 2], [-0.5, -0.5], [0, 0], "stop")
    broken, right = Verdict(None, "error", "fake", "1"), Verdict(1.0, "correct", "fake", "1")
    pieces = tuple(Piece(i, "answer", 0, whole, verdict) for i, verdict in enumerate([broken, right, right]))
    buffer.left = [replace(buffer.left[0], pieces=pieces)]
    run(FakeEngine(), buffer, verifiers, lambda: len(buffer.finished) == 1)
    assert len(verifiers.requests) == 1
    assert [rollout.verdict.status for rollout in buffer.finished[0].rollouts] == ["correct"] * 3


def test_a_retired_worker_delivers_nothing_more_and_says_why():
    buffer = FakeBuffer(1)

    async def main() -> None:
        engine = FakeEngine(tokens=10**9)
        worker = RolloutWorker("w0", lambda: engine, lambda: str, buffer, FakeVerifiers(), 2, 0.02, 0.3, 0.3)
        await worker.start()
        while not engine.requests:
            await asyncio.sleep(0.001)
        await worker.retire("w0 does not compute with version 3")
        with pytest.raises(EngineDead, match="does not compute with version 3"):
            await worker.health()
        assert len(engine.aborted) == 3

    asyncio.run(main())
    assert buffer.finished == []


def test_a_worker_in_quarantine_gives_back_what_it_has_and_takes_no_leases():
    async def main() -> None:
        buffer = FakeBuffer(3)
        worker = RolloutWorker(
            "w0", lambda: FakeEngine(pause=0.005), lambda: str, buffer, FakeVerifiers(), 1, 0.02, 0.3, 0.3
        )
        await worker.start()
        while len(buffer.left) == 3:
            await asyncio.sleep(0.001)
        await worker.quarantine("its weights are in doubt")
        await asyncio.sleep(0.1)
        assert (len(buffer.left), len(buffer.finished), len(buffer.given_back)) == (2, 0, 1)
        await worker.attested(0)  # by whoever: the broadcaster that doubted may be gone
        async with asyncio.timeout(5):
            while len(buffer.finished) < 2:
                await asyncio.sleep(0.001)
        await worker.close()

    asyncio.run(main())


def test_a_worker_that_leaves_gives_back_every_token_and_takes_no_leases_however_well_it_is():
    engine, buffer = FakeEngine(tokens=10**9, pause=0.001), FakeBuffer(3)

    async def main() -> None:
        worker = RolloutWorker("w0", lambda: engine, lambda: str, buffer, FakeVerifiers(), 1, 60.0, 0.3, 0.3)
        await worker.start()
        await until_sampled(engine, 30)
        await worker.drain()
        [(report, reason)] = buffer.given_back
        assert reason == "leaving"
        assert sum(len(p.segment) for p in report.pieces) == sum(engine.given.values())
        await worker.attested(0)
        await asyncio.sleep(0.1)
        assert (len(buffer.left), len(buffer.finished)) == (2, 0)
        await worker.close()

    asyncio.run(main())


def test_a_worker_that_leaves_delivers_what_is_finished_first():
    class Slow(FakeBuffer):
        async def finish(self, *args):
            await asyncio.sleep(0.1)
            return await super().finish(*args)

    buffer = Slow(1)

    async def main() -> None:
        worker = RolloutWorker("w0", FakeEngine, lambda: str, buffer, FakeVerifiers(), 1, 60.0, 0.3, 0.3)
        await worker.start()
        while not any(running.delivered for running in worker._groups.values()):
            await asyncio.sleep(0.001)
        assert buffer.finished == []
        await worker.drain()
        assert len(buffer.finished) == 1
        assert buffer.given_back == []
        await worker.close()

    asyncio.run(main())


def test_only_groups_that_are_still_worked_on_are_reported():
    """A delivered group is no longer the worker's: reporting it would only bring a false alarm."""
    buffer = FakeBuffer(1)

    async def main() -> None:
        worker = RolloutWorker("w0", FakeEngine, lambda: str, buffer, FakeVerifiers(), 2, 0.01, 0.3, 0.3)
        await worker.start()
        while not buffer.finished:
            await asyncio.sleep(0.001)
        buffer.reports.clear()
        await asyncio.sleep(0.05)
        await worker.close()

    asyncio.run(main())
    assert buffer.reports == []


def test_tokens_are_reported_once_each_while_the_answer_goes_on():
    engine, buffer = FakeEngine(tokens=400, pause=0.001), FakeBuffer(1)
    run(engine, buffer, FakeVerifiers(), lambda: len(buffer.finished) == 1)
    of_first = [p for report in buffer.reports for p in report.pieces if p.sample_index == 0]
    assert len(of_first) > 3
    assert [p.offset for p in of_first[1:]] == [p.end for p in of_first[:-1]]
    told = [int(t) for p in of_first for t in p.segment.token_ids]
    assert told == buffer.finished[0].rollouts[0].response.token_ids.tolist()[: len(told)]


def test_a_report_that_got_no_answer_is_said_again():
    engine, buffer = FakeEngine(tokens=300, pause=0.001), FakeBuffer(1)
    report, calls = buffer.report, []

    async def deaf(worker, progress):
        calls.append(progress)
        if len(calls) <= 2:
            raise DeadlineExceeded("waiting for buffer.report: no answer")
        return await report(worker, progress)

    buffer.report = deaf
    run(engine, buffer, FakeVerifiers(), lambda: len(buffer.finished) == 1)
    first = next(p for g in buffer.reports for p in g.pieces if p.sample_index == 0)
    assert (first.offset, len(first.segment) > 1) == (0, True)


def test_an_answer_goes_on_from_what_the_lease_brings_and_its_budget_shrinks():
    buffer, engine = FakeBuffer(1), FakeEngine(tokens=2)
    known = Segment.of([9, 9, 9], [-1.0] * 3, [0, 0, 1], None)
    whole = Segment.of([4, 4], [-1.0] * 2, [0, 0], "stop")
    verdict = Verdict(0.0, "wrong", "fake", "1")
    pieces = (Piece(0, "answer", 0, known), Piece(1, "answer", 0, whole, verdict), Piece(2, "answer", 0, whole))
    buffer.left = [replace(buffer.left[0], pieces=pieces)]
    verifiers = FakeVerifiers()
    run(engine, buffer, verifiers, lambda: len(buffer.finished) == 1)
    [request] = engine.requests  # the other two are whole
    assert request.prompt_ids.tolist() == [5, 6, 9, 9, 9]
    assert request.max_new_tokens == 8 - 3
    assert request.seed == sample_seed(7, GroupKey("train", 0, "p0"), 0, "answer", 3)
    first, second, third = buffer.finished[0].rollouts
    assert first.response.token_ids.tolist() == [9, 9, 9, 0, 1]
    assert first.response.versions.tolist() == [0, 0, 1, 0, 0]
    assert first.prompt_ids.tolist() == [5, 6]
    assert second.verdict == verdict  # kept
    assert third.verdict.reward == 1.0
    assert len(verifiers.requests) == 2


def test_a_workflow_of_several_steps_replays_what_is_known_and_goes_on_where_it_stopped():
    async def two_turns(lease: Lease, context) -> RolloutGroup:
        rollouts = []
        for index in range(lease.num_samples):
            prompt = np.array(lease.prompt.token_ids, np.int32)
            draft = await context.generate("draft", index, prompt)
            asked_again = np.concatenate([prompt, draft.token_ids, np.array([77], np.int32)])
            answer = await context.generate("final", index, asked_again)
            verdict = await context.score("final", index, answer)
            mask = np.ones(len(answer), np.bool_)
            rollouts.append(Rollout("p0", index, asked_again, answer, mask, verdict, "finished"))
        return RolloutGroup(lease.key, lease.prompt, tuple(rollouts))

    buffer, engine = FakeBuffer(1), FakeEngine(tokens=2)
    draft, part = Segment.of([1, 2], [-1.0] * 2, [0, 0], "stop"), Segment.of([3], [-1.0], [0], None)
    buffer.left = [
        replace(buffer.left[0], num_samples=2, pieces=(Piece(0, "draft", 0, draft), Piece(0, "final", 0, part)))
    ]
    run(engine, buffer, FakeVerifiers(), lambda: len(buffer.finished) == 1, workflow=two_turns)
    assert [r.prompt_ids.tolist() for r in engine.requests] == [
        [5, 6, 1, 2, 77, 3],  # sample 0: its draft is known, and the first token of what follows
        [5, 6],
        [5, 6, 0, 1, 77],
    ]
    assert len({r.seed for r in engine.requests}) == 3  # each call draws numbers of its own
    assert buffer.finished[0].rollouts[0].response.token_ids.tolist() == [3, 0, 1]


def test_an_interrupted_group_is_given_back_with_every_token():
    buffer, engine = FakeBuffer(1), FakeEngine(tokens=10**9, pause=0.001)

    def until() -> bool:
        if len(engine.requests) == 3 and not buffer.given_back:
            buffer.unwanted = [GroupKey("train", 0, "p0")]
        return bool(buffer.given_back)

    run(engine, buffer, FakeVerifiers(), until)
    [(report, reason)] = buffer.given_back
    assert (report.attempt, reason) == (2, "interrupted")
    assert sorted(engine.aborted) == sorted(r.id for r in engine.requests)
    told = {i: [p for r in [*buffer.reports, report] for p in r.pieces if p.sample_index == i] for i in range(3)}
    for index, request in enumerate(engine.requests):
        assert sum(len(p.segment) for p in told[index]) == engine.given[request.id]
    assert buffer.finished == []


def test_an_interruption_in_a_later_step_waits_for_the_last_tokens_too():
    class Slow(FakeEngine):
        """Streams a token at a time, and gives five that it held back when it is aborted."""

        async def generate(self, request):
            self.requests.append(request)
            ends = 2 if "/one/" in request.id else 10**9
            for index in range(ends):
                await asyncio.sleep(0.002)
                held = request.id in self.aborted
                self.given[request.id] += 5 if held else 1
                count, reason = (5, "abort") if held else (1, "stop" if index == ends - 1 else None)
                yield Segment.of([2 if held else 1] * count, [-0.5] * count, [0] * count, reason)
                if held:
                    return

    async def two_steps(lease, context):
        ids = np.array(lease.prompt.token_ids, np.int32)
        await context.generate("one", 0, ids)
        await context.generate("two", 0, ids)

    buffer, engine = FakeBuffer(1), Slow()

    def until() -> bool:
        if len(engine.requests) == 2 and engine.given[engine.requests[1].id] > 2 and not buffer.given_back:
            buffer.unwanted = [GroupKey("train", 0, "p0")]
        return bool(buffer.given_back)

    run(engine, buffer, FakeVerifiers(), until, workflow=two_steps)
    told = [p for r in [*buffer.reports, buffer.given_back[0][0]] for p in r.pieces if p.call == "two"]
    assert told[-1].segment.token_ids.tolist()[-5:] == [2] * 5
    assert sum(len(p.segment) for p in told) == engine.given[engine.requests[1].id]


@pytest.mark.parametrize("error", [PeerLost("buffer died during report"), JournalBroken("the disk is full")])
def test_a_worker_outlives_its_buffer(error):
    engine, buffer = FakeEngine(tokens=50, pause=0.002), FakeBuffer(4)
    report, answers = buffer.report, iter([True, False])

    async def lost_once(worker, progress):
        if not next(answers, True):
            raise error
        return await report(worker, progress)

    buffer.report = lost_once
    run(engine, buffer, FakeVerifiers(), lambda: len(buffer.finished) == 2, patience=5.0)
    assert len(engine.aborted) == 2 * 3  # what ran is dropped: the new buffer knows nothing of its lease


def test_a_buffer_that_was_out_of_reach_for_a_moment_gets_back_what_was_dropped():
    engine, buffer = FakeEngine(tokens=10**9, pause=0.002), FakeBuffer(1)
    report, calls = buffer.report, iter(range(10**9))

    async def unreachable_once(worker, progress):
        if next(calls) == 2:
            raise PeerAway("the network blinked")
        return await report(worker, progress)

    buffer.report = unreachable_once
    run(engine, buffer, FakeVerifiers(), lambda: buffer.given_back, patience=5.0)
    [(back, reason)] = buffer.given_back
    assert (back.key, back.attempt, reason) == (GroupKey("train", 0, "p0"), 2, "buffer_lost")
    known = [
        sum(len(p.segment) for r in [*buffer.reports, back] for p in r.pieces if p.sample_index == i) for i in range(3)
    ]
    assert min(known) > 0
    assert [back.pieces[i].end for i in range(3)] == known


def test_a_buffer_that_stays_away_ends_the_worker():
    buffer = FakeBuffer(1)

    async def gone(*args):
        raise PeerLost("buffer died")

    buffer.lease = buffer.report = buffer.revoked = gone
    with pytest.raises(EngineDead, match="PeerLost: buffer died"):
        run(FakeEngine(), buffer, FakeVerifiers(), lambda: False)


def test_verdicts_are_asked_for_together():
    """Answers that end while calls are under way share the next one."""
    buffer, verifiers = FakeBuffer(8), FakeVerifiers(seconds=0.02)
    run(FakeEngine(), buffer, verifiers, lambda: len(buffer.finished) == 8, max_concurrent=8)
    assert sum(verifiers.sizes) == 24
    assert len(verifiers.sizes) < 12


def test_no_token_of_a_version_leaves_the_worker_before_that_is_attested():
    engine, buffer = FakeEngine(tokens=60, pause=0.001), FakeBuffer(1)

    async def main() -> None:
        worker = RolloutWorker("w0", lambda: engine, lambda: str, buffer, FakeVerifiers(), 2, 0.005, 0.3, 0.3)
        await worker.start()
        await until_sampled(engine, 30)
        await worker.load_weights(SimpleNamespace(version=1))
        await until_sampled(engine, 3 * 60)
        await asyncio.sleep(0.03)
        assert buffer.finished == []
        assert {int(v) for r in buffer.reports for p in r.pieces for v in p.segment.versions} == {0}
        assert all(p.verdict is None for r in buffer.reports for p in r.pieces)
        await worker.attested(1)
        while not buffer.finished:
            await asyncio.sleep(0.001)
        await worker.close()

    asyncio.run(main())
    assert set(buffer.finished[0].rollouts[0].response.versions.tolist()) == {0, 1}


def test_a_group_with_tokens_that_nobody_attests_goes_back_without_them():
    engine, buffer = FakeEngine(tokens=60, pause=0.001), FakeBuffer(1)

    async def main() -> None:
        worker = RolloutWorker("w0", lambda: engine, lambda: str, buffer, FakeVerifiers(), 2, 60.0, 0.05, 0.3)
        await worker.start()
        await until_sampled(engine, 30)
        await worker.load_weights(SimpleNamespace(version=1))
        while not buffer.given_back:
            await asyncio.sleep(0.001)
        await worker.close()

    asyncio.run(main())
    ((progress, reason),) = buffer.given_back
    assert reason == "unattested"
    assert {int(version) for piece in progress.pieces for version in piece.segment.versions} == {0}
    assert buffer.finished == []


def test_what_a_doubted_engine_sampled_is_void_and_what_came_before_is_kept():
    engine, buffer = FakeEngine(tokens=10**9, pause=0.001), FakeBuffer(1)

    async def main() -> None:
        worker = RolloutWorker("w0", lambda: engine, lambda: str, buffer, FakeVerifiers(), 2, 60.0, 0.3, 0.3)
        await worker.start()
        await until_sampled(engine, 30)
        old = dict(engine.given)
        await worker.load_weights(SimpleNamespace(version=1))
        await until_sampled(engine, 60)
        await worker.quarantine("w0 does not compute with version 1")
        [(report, reason)] = buffer.given_back
        assert reason == "quarantined"
        kept = {p.sample_index: len(p.segment) for p in report.pieces}
        assert kept == {index: old[request.id] for index, request in enumerate(engine.requests)}
        await worker.close()

    asyncio.run(main())


def test_when_whoever_brings_weights_is_gone_an_attested_version_is_used_on_and_another_is_void():
    engine, buffer = FakeEngine(tokens=10**9, pause=0.001), FakeBuffer(1)

    async def main() -> None:
        worker = RolloutWorker("w0", lambda: engine, lambda: str, buffer, FakeVerifiers(), 2, 60.0, 0.3, 0.3)
        await worker.start()
        await until_sampled(engine, 30)
        await worker.load_weights(SimpleNamespace(version=1))
        await worker.attested(1)
        await worker.forsaken()
        assert buffer.given_back == []
        await worker.load_weights(SimpleNamespace(version=2))
        await until_sampled(engine, 60)
        await worker.forsaken()
        [(report, reason)] = buffer.given_back
        assert reason == "quarantined"
        assert {int(version) for p in report.pieces for version in p.segment.versions} <= {0, 1}
        await worker.close()

    asyncio.run(main())


@pytest.mark.parametrize("error", [WeightsMissing("connection refused"), WeightsDisagree("checksums differ")])
def test_a_version_that_was_not_taken_leaves_the_one_before_as_good_as_it_was(error):
    engine, buffer = FakeEngine(tokens=10**9, pause=0.001), FakeBuffer(1)

    async def refuse(slot):
        raise error

    async def main() -> None:
        worker = RolloutWorker("w0", lambda: engine, lambda: str, buffer, FakeVerifiers(), 2, 0.005, 0.3, 0.3)
        await worker.start()
        await worker.load_weights(SimpleNamespace(version=1))
        await worker.attested(1)
        engine.load_weights = refuse
        with pytest.raises(type(error)):
            await worker.load_weights(SimpleNamespace(version=2))
        await worker.forsaken()
        assert buffer.given_back == []
        sampled = sum(engine.given.values())
        await until_sampled(engine, sampled + 30)
        await asyncio.sleep(0.02)
        assert {int(v) for r in buffer.reports for p in r.pieces for v in p.segment.versions} >= {1}
        await worker.close()

    asyncio.run(main())
