import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.event_log import EventLog, JournalBroken, JournalFenced
from rollout.events import (
    LOG_NAME,
    Discarded,
    Dropped,
    Event,
    Finished,
    JournalDamaged,
    Leased,
    Opened,
    PayloadRef,
    PhaseBegun,
    Progressed,
    Refused,
    Released,
    Trained,
    encode,
    encode_all,
    replay,
)
from rollout.journal import Journal, read_payloads, read_pieces
from rollout.payloads import from_batch, pieces_from_batch, pieces_to_batch, to_batch
from rollout.records import GroupKey, GroupProgress, Piece, Segment
from rollout.segments import read_segment
from rollout.storage import InUse, LocalDisk, Storage
from verifiers.records import Verdict

DATA = "d" * 64
KEY = GroupKey("train", 0, "p0")
EVENTS = [
    Opened(1, DATA, "process 1 on here"),
    PhaseBegun("rl", 1, 20, 50, 10),
    Leased(KEY, "w0", 0),
    Progressed(KEY, "w0", 0, PayloadRef(1, 2), 64),
    Released(KEY, "expired"),
    Discarded(KEY, (0, 3), 64, "stale"),
    Refused(KEY, "w0", 0, "progress", "free", 7),
    Finished(KEY, "w1", 1, PayloadRef(3, 4), 19, 21, "dropped", "zero_variance"),
    Dropped(KEY, "stale"),
    Trained((KEY, GroupKey("eval", 7, "ü")), 21),
]


@pytest.fixture
def disk(tmp_path: Path) -> LocalDisk:
    return LocalDisk(tmp_path / "journal")


def leased(number: int) -> Leased:
    return Leased(GroupKey("train", 0, str(number)), "w", 0)


def written(storage: Storage, *flushes: Sequence[Event]) -> list[Event]:
    """A journal with these events, one flush after the other. Returns what it replays."""

    async def write() -> None:
        journal = Journal(storage, DATA)
        for events in flushes:
            for event in events:
                journal.post(event)
            await journal.sync()
        await journal.close()

    asyncio.run(write())
    return list(replay(storage))


def told(events: Sequence[Event]) -> list[Event]:
    """Without the marks of their writers."""
    return [event for event in events if not isinstance(event, Opened)]


def put(storage: Storage, content: bytes) -> None:
    storage.replace(LOG_NAME, content)


# -- the log ----------------------------------------------------------------------------------------------------


def test_events_come_back_as_they_were_written(disk: LocalDisk):
    opened, *events = written(disk, EVENTS[1:])
    assert events == EVENTS[1:]
    assert isinstance(opened, Opened)
    assert (opened.incarnation, opened.fingerprint) == (1, DATA)
    assert f"process {os.getpid()} on " in opened.writer


def test_there_are_no_events_without_a_log(disk: LocalDisk):
    assert list(replay(disk)) == []


def test_a_log_cut_anywhere_gives_the_whole_records_before_the_cut(memory_storage):
    storage = memory_storage()
    whole = encode_all(EVENTS, 1, 0)
    ends = [len(encode_all(EVENTS[:n], 1, 0)) for n in range(len(EVENTS) + 1)]
    for size in range(len(whole) + 1):
        put(storage, whole[:size])
        assert list(replay(storage)) == EVENTS[: sum(end <= size for end in ends) - 1]


def test_a_writer_cuts_a_last_record_torn_at_any_byte_and_goes_on_after_it(memory_storage, caplog):
    last = encode(leased(9), 1, 0)
    storage = memory_storage()
    before = written(storage, [leased(0)])
    log = bytes(storage.files[LOG_NAME].content)
    for size in range(len(last)):
        put(storage, log + last[:size])
        caplog.clear()
        after = written(storage, [leased(1)])
        assert (after[:2], after[3:]) == (before, [leased(1)])
        assert isinstance(after[2], Opened)
        assert after[2].incarnation == 2
        assert caplog.messages == (
            [f"memory/events.log: cut {size} bytes of a record that a crash left torn"] * (size > 0)
        )


def test_what_was_never_durable_may_have_holes_and_is_cut_from_the_first_on(memory_storage):
    storage = memory_storage()
    written(storage, [leased(0)])
    log = bytes(storage.files[LOG_NAME].content)
    flush = [encode(leased(number), 1, len(log)) for number in (1, 2, 3)]
    put(storage, log + flush[0] + bytes(len(flush[1])) + flush[2])
    assert told(list(replay(storage))) == [leased(0), leased(1)]
    assert told(written(storage, [leased(4)])) == [leased(0), leased(1), leased(4)]


def test_damage_at_any_byte_that_was_durable_is_refused_and_nothing_is_cut(memory_storage):
    storage = memory_storage()
    written(storage, [leased(0), leased(1)], [leased(2)], [leased(3)])
    log = bytes(storage.files[LOG_NAME].content)
    sound = len(log) - len(encode(leased(3), 1, 0))
    starts = [0, *np.cumsum([len(encode(event, 1, 0)) for event in replay(storage)]).tolist()]
    for at in range(sound):
        damaged = bytearray(log)
        damaged[at] ^= 0x10
        put(storage, damaged)
        record = max(start for start in starts if start <= at)
        expected = f"memory/events.log cannot be read at byte {record}, and a later record says"
        with pytest.raises(JournalDamaged, match=expected):
            list(replay(storage))
        with pytest.raises(JournalDamaged, match=expected):
            Journal(storage, DATA)
        assert storage.files[LOG_NAME].content == damaged


def test_a_log_of_another_format_is_refused_and_not_cut(memory_storage):
    storage = memory_storage()
    put(storage, b'["PhaseBegun", {}]' * 5000)
    with pytest.raises(JournalDamaged, match=r"has 90000 bytes and no record that this RLoop can read; use the RLoop"):
        Journal(storage, DATA)
    assert len(storage.files[LOG_NAME].content) == 90000


@settings(max_examples=200)
@given(flushes=st.lists(st.integers(1, 4), min_size=1, max_size=5), data=st.data())
def test_a_crash_that_loses_any_of_the_last_flush_keeps_every_flush_before_it(memory_storage, flushes, data):
    """A page of the last flush may be kept or lost on its own."""
    storage = memory_storage()
    events = iter(range(100))
    batches = [[leased(next(events)) for _ in range(count)] for count in flushes]
    written(storage, *batches)
    log = bytearray(storage.files[LOG_NAME].content)
    durable = len(log) - len(encode_all(batches[-1], 1, 0))
    size = data.draw(st.integers(durable, len(log)))
    lost = data.draw(
        st.lists(st.booleans(), min_size=(size - durable + 15) // 16, max_size=(size - durable + 15) // 16)
    )
    for page, gone in enumerate(lost):
        if gone:
            start = durable + 16 * page
            log[start : min(start + 16, size)] = bytes(min(16, size - start))
    put(storage, log[:size])
    before = [event for batch in batches[:-1] for event in batch]
    kept = told(list(replay(storage)))
    assert kept[: len(before)] == before
    assert kept[len(before) :] == batches[-1][: len(kept) - len(before)]
    assert told(written(storage, [leased(100)])) == [*kept, leased(100)]


# -- incarnations -----------------------------------------------------------------------------------------------


def test_every_writer_has_an_incarnation_of_its_own(disk: LocalDisk):
    async def write() -> int:
        journal = Journal(disk, DATA)
        await journal.close()
        return journal.incarnation

    assert [asyncio.run(write()) for _ in range(3)] == [1, 2, 3]
    assert [event.incarnation for event in replay(disk) if isinstance(event, Opened)] == [1, 2, 3]


def test_a_run_is_not_resumed_with_other_data_and_the_lock_is_free_afterwards(disk: LocalDisk):
    written(disk, [leased(0)])
    with pytest.raises(
        ValueError, match=r"written with data dddddddddddd, this run has data eeeeeeeeeeee; resume with"
    ):
        Journal(disk, "e" * 64)
    assert told(written(disk, [leased(1)])) == [leased(0), leased(1)]


def test_a_writer_that_was_replaced_is_told_by_whom_and_its_late_events_count_for_nothing(memory_storage):
    async def take_over() -> None:
        storage = memory_storage()
        old = Journal(storage, DATA)
        old.post(leased(0))
        await old.sync()
        new = Journal(memory_storage(storage.files), DATA)
        old.post(leased(1))
        for _ in range(2):  # and it stays so
            with pytest.raises(
                JournalFenced, match=r"another process took the run over: process \d+ on .* incarnation 2"
            ):
                await old.sync()
        new.post(leased(2))
        await new.sync()
        await new.close()
        with pytest.raises(JournalFenced):
            await old.close()
        assert told(list(replay(storage))) == [leased(0), leased(2)]

    asyncio.run(take_over())


def test_a_writer_reads_the_log_once_and_hears_what_counts_of_it(memory_storage):
    storage = memory_storage()
    EventLog(storage, DATA).append([leased(0)])
    late = EventLog(storage, DATA)
    EventLog(storage, DATA).append([leased(1)])
    storage.append(LOG_NAME).write(encode(leased(2), late.incarnation, 0))
    reads, read = [], storage.read
    storage.read = lambda name: (reads.append(name), read(name))[1]
    heard: list[Event] = []
    EventLog(storage, DATA, heard.append)
    assert reads == [LOG_NAME]
    assert heard == list(replay(storage))
    assert [event for event in heard if isinstance(event, Leased)] == [leased(0), leased(1)]


def test_a_long_log_is_said_to_be_replayed(memory_storage, caplog):
    storage = memory_storage()
    EventLog(storage, DATA).append([Leased(KEY, "w" * 10_000, 0)] * 900)
    with caplog.at_level("INFO"):
        EventLog(storage, DATA)
    assert "MB of events are replayed" in caplog.text
    assert "901 events were replayed" in caplog.text


def test_a_write_that_was_under_way_at_the_take_over_is_not_called_durable(memory_storage, caplog):
    """It had looked at the log, then slept; the new writer goes on behind what it left."""
    storage = memory_storage()
    old = EventLog(storage, DATA)
    old.append([leased(0)])
    new = EventLog(memory_storage(storage.files), DATA)
    with pytest.raises(JournalFenced):
        old.append([leased(1)])
    new.append([leased(2)])
    assert caplog.messages == ["memory: a writer that was replaced is still writing; its events are ignored"]
    assert told(list(replay(storage))) == [leased(0), leased(2)]
    assert told(written(storage, [leased(3)])) == [leased(0), leased(2), leased(3)]


def test_half_a_record_of_a_replaced_writer_breaks_the_journal_before_anything_is_called_durable(memory_storage):
    storage = memory_storage()
    old = EventLog(storage, DATA)
    new = EventLog(memory_storage(storage.files), DATA)
    storage.files[LOG_NAME].content += encode(leased(1), old.incarnation, 0)[:-1]
    with pytest.raises(JournalBroken, match="does not end where this process left it"):
        new.append([leased(2)])
    assert told(written(storage, [leased(3)])) == [leased(3)]


def test_a_new_writer_makes_durable_what_a_killed_one_had_not_synced(memory_storage):
    storage = memory_storage()
    written(storage, [leased(0)])
    storage.files[LOG_NAME].content += encode(leased(1), 1, 0)  # whole, but only in the page cache
    assert told(list(replay(memory_storage(storage.files)))) == [leased(0), leased(1)]
    EventLog(storage, DATA)
    assert told(list(replay(storage.after_crash(kept=False)))) == [leased(0), leased(1)]


# -- faults of the disk -----------------------------------------------------------------------------------------


async def scripted(storage: Storage, groups: Sequence) -> tuple[list[Event], dict[PayloadRef, str]]:
    """Some life of a journal. Returns the events that were called durable, and the prompts of their payloads."""
    durable: list[Event] = []
    payloads: dict[PayloadRef, str] = {}
    try:
        journal = Journal(storage, DATA, segment_bytes=1000)
        for number, group in enumerate(groups):
            ref = journal.add(to_batch(group, 0, 0))
            event = Finished(group.key, "w", 0, ref, 0, 0, "buffered")
            journal.post(event)
            await journal.sync()
            durable.append(event)
            payloads[ref] = group.key.prompt_id
            if number == 2:
                await journal.compact()
        await journal.close()
    except (JournalBroken, OSError):
        pass
    return durable, payloads


def holds(storage: Storage, durable: list[Event], payloads: dict[PayloadRef, str]) -> None:
    """What was called durable is there, in order, and so are the payloads of whatever is there."""
    events = told(list(replay(storage)))
    assert events[: len(durable)] == durable
    assert len(events) <= len(durable) + 1
    refs = [event.payload for event in events if isinstance(event, Finished)]
    found = {ref: batch["prompt_id"][0].as_py() for ref, batch in read_payloads(storage, refs)}
    assert found | payloads == found
    assert told(written(storage, [leased(0)])) == [*events, leased(0)]


def test_a_full_disk_breaks_the_journal_and_leaves_what_was_durable(memory_storage, make_group):
    groups = [make_group(f"p{i}") for i in range(4)]
    acknowledged = set()
    for room in range(0, 20_000, 97):
        storage = memory_storage(room=room)
        durable, payloads = asyncio.run(scripted(storage, groups))
        acknowledged.add(len(durable))
        holds(memory_storage(storage.files), durable, payloads)
    assert acknowledged == {0, 1, 2, 3, 4}


def test_after_a_failed_write_nothing_is_promised_any_more(memory_storage):
    async def fill() -> None:
        storage = memory_storage()
        journal = Journal(storage, DATA)
        storage.room = 50
        for _ in range(2):
            journal.post(leased(0))
            with pytest.raises(JournalBroken, match=r"memory cannot be written: .* no space left on device"):
                await journal.sync()
            storage.room = 10_000
        with pytest.raises(JournalBroken):
            await journal.close()
        await journal.close()
        assert told(list(replay(storage))) == []

    asyncio.run(fill())


@pytest.mark.parametrize("kept", [True, False], ids=["page cache kept", "page cache lost"])
def test_a_crash_at_any_operation_leaves_everything_that_was_called_durable(memory_storage, make_group, kept: bool):
    groups = [make_group(f"p{i}") for i in range(4)]
    whole = memory_storage()
    assert len(asyncio.run(scripted(whole, groups))[0]) == 4
    assert whole.operations > 40
    for lives in range(whole.operations):
        storage = memory_storage(lives=lives)
        durable, payloads = asyncio.run(scripted(storage, groups))
        holds(storage.after_crash(kept), durable, payloads)


# -- payloads ---------------------------------------------------------------------------------------------------


def test_a_group_comes_back_token_for_token(disk: LocalDisk, make_group):
    group = make_group("p3", (1.0, None, 0.25), versions=(4, 5, 5), epoch=2)

    async def write() -> list[PayloadRef]:
        journal = Journal(disk, DATA)
        refs = [journal.add(to_batch(make_group(f"p{i}"), 1, i)) for i in range(3)]
        refs.append(journal.add(to_batch(group, 1, 3)))
        await journal.close()
        return refs

    refs = asyncio.run(write())
    assert refs == [PayloadRef(1, i) for i in range(4)]
    [(ref, batch)] = read_payloads(disk, refs[3:])
    back = from_batch(batch, group.prompt)
    assert (ref, back.key, batch["step"].to_pylist()) == (refs[3], group.key, [3, 3, 3])
    assert batch["oldest_version"].to_pylist() == [4, 4, 4]
    assert batch["newest_version"].to_pylist() == [5, 5, 5]
    assert batch["reward"].to_pylist() == [1.0, None, 0.25]
    for before, after in zip(group.rollouts, back.rollouts, strict=True):
        assert (before.sample_index, before.verdict, before.status) == (after.sample_index, after.verdict, after.status)
        assert before.response.finish_reason == after.response.finish_reason
        for name in ("token_ids", "logprobs", "versions"):
            old, new = getattr(before.response, name), getattr(after.response, name)
            assert (old.dtype, old.tolist()) == (new.dtype, new.tolist())
        assert before.loss_mask.tolist() == after.loss_mask.tolist()
        assert before.prompt_ids.tolist() == after.prompt_ids.tolist()


def test_an_empty_answer_survives_the_journal(make_group):
    group = make_group(rewards=(0.0,), versions=())
    back = from_batch(to_batch(group, 0, 0), group.prompt)
    assert len(back.rollouts[0].response) == 0


def test_a_segment_cut_anywhere_gives_the_whole_groups_before_the_cut(memory_storage, make_group):
    storage = memory_storage()

    async def write() -> None:
        journal = Journal(storage, DATA)
        for i in range(3):
            journal.add(to_batch(make_group(f"p{i}"), 0, 0))
        await journal.close()

    asyncio.run(write())
    name = "segment-000001.arrow"
    whole = bytes(storage.files[name].content)
    seen = set()
    for size in [*range(0, len(whole), 40), len(whole)]:
        storage.replace(name, whole[:size])
        found = [(number, batch["prompt_id"][0].as_py()) for number, batch in read_segment(storage, 1)]
        assert found == [(0, "p0"), (1, "p1"), (2, "p2")][: len(found)]
        seen.add(len(found))
    assert seen == {0, 1, 2, 3}


def test_a_payload_that_the_log_names_but_the_segment_lacks_is_an_error(disk: LocalDisk, make_group):
    async def write() -> None:
        journal = Journal(disk, DATA)
        journal.add(to_batch(make_group(), 0, 0))
        await journal.close()

    asyncio.run(write())
    with pytest.raises(JournalDamaged, match=r"ends before record batches \[5\]"):
        list(read_payloads(disk, [PayloadRef(1, 0), PayloadRef(1, 5)]))


def same(before: Piece, after: Piece) -> None:
    assert (before.sample_index, before.call, before.offset) == (after.sample_index, after.call, after.offset)
    assert before.verdict == after.verdict
    assert before.segment.finish_reason == after.segment.finish_reason
    for name in ("token_ids", "logprobs", "versions"):
        old, new = getattr(before.segment, name), getattr(after.segment, name)
        assert (old.dtype, old.tolist()) == (new.dtype, new.tolist())


VERDICTS = st.one_of(
    st.none(),
    st.just(Verdict(None, "timeout", "exact", "2", {}, "too slow")),
    st.builds(
        Verdict,
        st.floats(0, 1),
        st.sampled_from(["correct", "wrong"]),
        st.text(max_size=3),
        st.just("1"),
        st.dictionaries(st.text(max_size=3), st.floats(-1, 1), max_size=3),
        st.text(max_size=5),
        st.text(max_size=5),
    ),
)
SEGMENTS = st.builds(
    lambda tokens, reason: Segment.of(
        tokens, [-token / 7 for token in tokens], [token % 5 for token in tokens], reason
    ),
    st.lists(st.integers(0, 150_000), max_size=5),
    st.sampled_from([None, "stop", "length", "abort"]),
)
PIECES = st.builds(Piece, st.integers(0, 15), st.text(max_size=5), st.integers(0, 9999), SEGMENTS, VERDICTS)


@settings(max_examples=100)
@given(pieces=st.lists(PIECES, min_size=1, max_size=5))
def test_pieces_come_back_as_they_were_reported(pieces: list[Piece]):
    batch = pieces_to_batch(GroupProgress(KEY, 3, tuple(pieces)))
    assert {tuple(row.values()) for row in batch.select(["purpose", "epoch", "prompt_id", "attempt"]).to_pylist()} == {
        (*KEY, 3)
    }
    for before, after in zip(pieces, pieces_from_batch(batch), strict=True):
        same(before, after)


def test_pieces_have_segments_of_their_own(disk: LocalDisk, make_group):
    piece = Piece(1, "answer", 2, Segment.of([5, 6], [-0.5, -0.25], [1, 2], None))

    async def write() -> tuple[list[PayloadRef], PayloadRef]:
        journal = Journal(disk, DATA)
        reports = [pieces_to_batch(GroupProgress(KEY, attempt, (piece,))) for attempt in range(3)]
        refs = [journal.add_pieces(report) for report in reports]
        group = journal.add(to_batch(make_group(), 0, 0))
        await journal.close()
        return refs, group

    refs, group = asyncio.run(write())
    assert (refs, group) == ([PayloadRef(1, i) for i in range(3)], PayloadRef(1, 0))
    assert disk.names() == [LOG_NAME, "lock", "pieces-000001.arrow", "segment-000001.arrow"]
    [(ref, batch)] = read_pieces(disk, refs[2:])
    [back] = pieces_from_batch(batch)
    assert (ref, batch["attempt"].to_pylist()) == (refs[2], [2])
    same(piece, back)


def test_segments_are_rotated_by_size_and_every_start_opens_a_new_one(disk: LocalDisk, make_group):
    async def write(segment_bytes: int) -> list[PayloadRef]:
        journal = Journal(disk, DATA, segment_bytes)
        refs = [journal.add(to_batch(make_group(f"p{i}"), 0, 0)) for i in range(4)]
        await journal.close()
        return refs

    first, second = asyncio.run(write(1 << 20)), asyncio.run(write(10))
    assert first == [PayloadRef(1, i) for i in range(4)]
    assert second == [PayloadRef(1001 + i, 0) for i in range(4)]  # of the second incarnation
    found = [batch["prompt_id"][0].as_py() for _, batch in read_payloads(disk, [*second, *first])]
    assert found == ["p0", "p1", "p2", "p3"] * 2


def test_many_syncs_at_once_share_few_fsyncs(disk: LocalDisk):
    async def write() -> int:
        journal = Journal(disk, DATA)
        writes = 0
        inner = journal._write

        def counted(*args: object) -> None:
            nonlocal writes
            writes += 1
            inner(*args)

        journal._write = counted  # type: ignore[method-assign, assignment]

        async def one(i: int) -> None:
            journal.post(leased(i))
            await journal.sync()
            assert sum(1 for _ in replay(disk)) > i + 1  # durable when sync returns

        await asyncio.gather(*(one(i) for i in range(200)))
        await journal.close()
        return writes

    assert asyncio.run(write()) <= 4


def test_a_second_writer_is_refused_and_told_who_has_it(disk: LocalDisk):
    async def both() -> None:
        first = Journal(disk, DATA)
        with pytest.raises(InUse, match=f"process {os.getpid()}"):
            Journal(disk, DATA)
        await first.close()
        await Journal(disk, DATA).close()

    asyncio.run(both())


def test_what_was_synced_survives_sigkill_and_the_lock_dies_with_its_owner(disk: LocalDisk):
    script = """
        import asyncio, sys
        from pathlib import Path
        from rollout.events import Leased
        from rollout.journal import Journal
        from rollout.records import GroupKey
        from rollout.storage import LocalDisk

        async def main():
            journal = Journal(LocalDisk(Path(sys.argv[1])), "d" * 64)
            for i in range(20):
                journal.post(Leased(GroupKey("train", 0, str(i)), "w", 0))
                await journal.sync()
            print("synced", flush=True)
            await asyncio.sleep(60)

        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(disk)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"synced\n"
        child.send_signal(signal.SIGKILL)
    assert told(list(replay(disk))) == [leased(i) for i in range(20)]
    written(disk)
