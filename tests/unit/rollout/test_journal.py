import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rollout.events import Dropped, Finished, Leased, PayloadRef, PhaseBegun, Released, Trained, encode, replay
from rollout.journal import Journal, JournalInUse, read_payloads, read_segment
from rollout.payloads import from_batch, to_batch
from rollout.records import GroupKey

KEY = GroupKey("train", 0, "p0")
EVENTS = [
    PhaseBegun("rl", 1, 20, 50, 10, limit=640),
    Leased(KEY, "w0", 0),
    Released(KEY, "expired"),
    Finished(KEY, "w1", PayloadRef(3, 4), 19, 21, "dropped", "zero_variance"),
    Dropped(KEY, "stale"),
    Trained((KEY, GroupKey("eval", 7, "ü")), 21),
]


def test_events_come_back_as_they_were_written(tmp_path: Path):
    async def write() -> None:
        journal = Journal(tmp_path)
        for event in EVENTS:
            journal.post(event)
        await journal.close()

    asyncio.run(write())
    assert list(replay(tmp_path)) == EVENTS


def test_a_log_cut_anywhere_gives_the_whole_records_before_the_cut(tmp_path: Path):
    whole = b"".join(map(encode, EVENTS))
    ends = [len(b"".join(map(encode, EVENTS[:n]))) for n in range(len(EVENTS) + 1)]
    log = tmp_path / "events.log"
    for size in range(len(whole) + 1):
        log.write_bytes(whole[:size])
        assert list(replay(tmp_path)) == EVENTS[: sum(end <= size for end in ends) - 1]


def test_a_flipped_bit_ends_the_log_before_its_record(tmp_path: Path):
    damaged = bytearray(b"".join(map(encode, EVENTS)))
    damaged[len(encode(EVENTS[0])) + 20] ^= 1
    (tmp_path / "events.log").write_bytes(damaged)
    assert list(replay(tmp_path)) == EVENTS[:1]


def test_the_writer_cuts_a_torn_tail_and_goes_on_after_it(tmp_path: Path):
    (tmp_path / "events.log").write_bytes(encode(EVENTS[0]) + encode(EVENTS[1])[:-3])

    async def write() -> None:
        journal = Journal(tmp_path)
        journal.post(EVENTS[2])
        await journal.close()

    asyncio.run(write())
    assert list(replay(tmp_path)) == [EVENTS[0], EVENTS[2]]


def test_a_group_comes_back_token_for_token(tmp_path: Path, make_group):
    group = make_group("p3", (1.0, None, 0.25), versions=(4, 5, 5), epoch=2)

    async def write() -> list[PayloadRef]:
        journal = Journal(tmp_path)
        refs = [journal.add(to_batch(make_group(f"p{i}"), 1, i)) for i in range(3)]
        refs.append(journal.add(to_batch(group, 1, 3)))
        await journal.close()
        return refs

    refs = asyncio.run(write())
    assert refs == [PayloadRef(1, i) for i in range(4)]
    [(ref, batch)] = read_payloads(tmp_path, refs[3:])
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


def test_a_segment_cut_anywhere_gives_the_whole_groups_before_the_cut(tmp_path: Path, make_group):
    async def write() -> None:
        journal = Journal(tmp_path)
        for i in range(3):
            journal.add(to_batch(make_group(f"p{i}"), 0, 0))
        await journal.close()

    asyncio.run(write())
    path = tmp_path / "segment-000001.arrow"
    whole, cut = path.read_bytes(), tmp_path / "cut.arrow"
    seen = set()
    for size in [*range(0, len(whole), 40), len(whole)]:
        cut.write_bytes(whole[:size])
        found = [batch["prompt_id"][0].as_py() for batch in read_segment(cut)]
        assert found == ["p0", "p1", "p2"][: len(found)]
        seen.add(len(found))
    assert seen == {0, 1, 2, 3}


def test_a_payload_that_the_log_names_but_the_segment_lacks_is_an_error(tmp_path: Path, make_group):
    async def write() -> None:
        journal = Journal(tmp_path)
        journal.add(to_batch(make_group(), 0, 0))
        await journal.close()

    asyncio.run(write())
    with pytest.raises(ValueError, match=r"ends before record batches \[5\]"):
        list(read_payloads(tmp_path, [PayloadRef(1, 0), PayloadRef(1, 5)]))


def test_segments_are_rotated_by_size_and_every_start_opens_a_new_one(tmp_path: Path, make_group):
    async def write(segment_bytes: int) -> list[PayloadRef]:
        journal = Journal(tmp_path, segment_bytes)
        refs = [journal.add(to_batch(make_group(f"p{i}"), 0, 0)) for i in range(4)]
        await journal.close()
        return refs

    first, second = asyncio.run(write(1 << 20)), asyncio.run(write(10))
    assert first == [PayloadRef(1, i) for i in range(4)]
    assert second == [PayloadRef(2 + i, 0) for i in range(4)]
    found = [batch["prompt_id"][0].as_py() for _, batch in read_payloads(tmp_path, [*second, *first])]
    assert found == ["p0", "p1", "p2", "p3"] * 2


def test_many_syncs_at_once_share_few_fsyncs(tmp_path: Path):
    async def write() -> int:
        journal = Journal(tmp_path)
        writes = 0
        inner = journal._write

        def counted(*args: object) -> None:
            nonlocal writes
            writes += 1
            inner(*args)

        journal._write = counted  # type: ignore[method-assign, assignment]

        async def one(i: int) -> None:
            journal.post(Leased(GroupKey("train", 0, str(i)), "w", 0))
            await journal.sync()
            assert sum(1 for _ in replay(tmp_path)) > i  # durable when sync returns

        await asyncio.gather(*(one(i) for i in range(200)))
        await journal.close()
        return writes

    assert asyncio.run(write()) <= 4


def test_a_second_writer_is_refused_and_told_who_has_it(tmp_path: Path):
    async def both() -> None:
        first = Journal(tmp_path)
        with pytest.raises(JournalInUse, match=f"process {os.getpid()}"):
            Journal(tmp_path)
        await first.close()
        await Journal(tmp_path).close()

    asyncio.run(both())


def test_what_was_synced_survives_sigkill_and_the_lock_dies_with_its_owner(tmp_path: Path):
    script = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from rollout.events import Leased
        from rollout.journal import Journal
        from rollout.records import GroupKey

        async def main():
            journal = Journal(Path(sys.argv[1]))
            for i in range(20):
                journal.post(Leased(GroupKey("train", 0, str(i)), "w", 0))
                await journal.sync()
            print("synced", flush=True)
            await asyncio.sleep(60)

        asyncio.run(main())
        """
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"synced\n"
        child.send_signal(signal.SIGKILL)
    assert [event.key.prompt_id for event in replay(tmp_path)] == [str(i) for i in range(20)]
    asyncio.run(Journal(tmp_path).close())
