import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.compaction import compact_segments
from rollout.events import JournalDamaged, Leased, PayloadRef, replay
from rollout.journal import Journal, read_payloads, read_pieces
from rollout.payloads import from_batch, pieces_to_batch, to_batch
from rollout.records import GroupKey, GroupProgress, Piece, RolloutGroup, Segment
from rollout.segments import read_segment, segments
from rollout.storage import LocalDisk, Storage

DATA = "d" * 64


@pytest.fixture
def disk(tmp_path: Path) -> LocalDisk:
    return LocalDisk(tmp_path)


def files(storage: Storage) -> list[str]:
    """Payload files."""
    return [name for name in storage.names() if name not in ("events.log", "lock")]


def written(
    storage: Storage, groups: Sequence[RolloutGroup], compacted: bool = False, segment_bytes: int = 1 << 20
) -> dict[PayloadRef, pa.RecordBatch]:
    """A journal with these groups, and where each one is."""
    found = {}

    async def write() -> None:
        journal = Journal(storage, DATA, segment_bytes)
        for step, group in enumerate(groups):
            batch = to_batch(group, 0, step)
            found[journal.add(batch)] = batch
        if compacted:
            await journal.compact()
        await journal.close()

    asyncio.run(write())
    return found


def holds(storage: Storage, groups: dict[PayloadRef, pa.RecordBatch]) -> None:
    """Every one of them comes back, cell for cell, by its place and by going through the segments."""
    found = dict(read_payloads(storage, groups))
    assert found.keys() == groups.keys()
    assert all(found[ref].equals(batch) for ref, batch in groups.items())
    through = [
        PayloadRef(segment, number) for segment in segments(storage) for number, _ in read_segment(storage, segment)
    ]
    assert through == sorted(groups)


def test_compacted_answers_are_where_they_were_and_equal(disk: LocalDisk, make_group):
    groups = [make_group("a", (1.0, None, 0.25), versions=(4, 5, 5), epoch=2), make_group("b", (0.0,), versions=())]
    refs = written(disk, groups, compacted=True)
    assert files(disk) == ["segment-000001.parquet"]
    holds(disk, refs)
    back = [
        from_batch(batch, group.prompt) for (_, batch), group in zip(read_payloads(disk, refs), groups, strict=True)
    ]
    assert [[r.verdict for r in group.rollouts] for group in back] == [[r.verdict for r in g.rollouts] for g in groups]
    assert back[0].rollouts[2].response.logprobs.tolist() == groups[0].rollouts[2].response.logprobs.tolist()


@pytest.mark.parametrize("compacted", [False, True])
def test_some_columns_can_be_read_alone_and_in_any_order(disk: LocalDisk, make_group, compacted):
    refs = written(disk, [make_group("a"), make_group("b", (1.0, None, 0.5))], compacted)
    some = ["token_ids", "verdict_status", "epoch"]
    found = dict(read_payloads(disk, refs, some))
    assert found == {ref: batch.select(some) for ref, batch in refs.items()}


def test_after_a_compaction_the_next_answers_go_to_a_new_segment_and_the_next_one_takes_only_that(
    disk: LocalDisk, make_group
):
    async def write() -> None:
        journal = Journal(disk, DATA)
        for number in (1, 2):
            assert journal.add(to_batch(make_group(f"p{number}"), 0, 0)) == PayloadRef(number, 0)
            assert journal.add(to_batch(make_group(f"q{number}"), 0, 0)) == PayloadRef(number, 1)
            before = {name: disk.size(name) for name in files(disk)}
            await journal.compact()
            assert before.items() <= {name: disk.size(name) for name in files(disk)}.items()
        await journal.compact()
        assert journal.add(to_batch(make_group(), 0, 0)) == PayloadRef(3, 0)
        await journal.close()

    asyncio.run(write())
    assert files(disk) == ["segment-000001.parquet", "segment-000002.parquet", "segment-000003.arrow"]


def test_a_new_writer_compacts_what_others_left_and_numbers_go_on(disk: LocalDisk, make_group):
    first = written(disk, [make_group(f"p{i}") for i in range(3)], segment_bytes=10)
    assert files(disk) == [f"segment-00000{i}.arrow" for i in (1, 2, 3)]
    second = written(disk, [make_group("x")], compacted=True)
    third = written(disk, [make_group("y")])
    compacted = [f"segment-{number:06d}.parquet" for number in (1, 2, 3, 1001)]
    assert files(disk) == [*compacted, "segment-002001.arrow"]
    holds(disk, first | second | third)


def test_the_journal_is_written_while_it_is_compacted(disk: LocalDisk, make_group):
    refs = {}

    async def write() -> None:
        journal = Journal(disk, DATA, segment_bytes=100)

        async def one(i: int) -> None:
            batch = to_batch(make_group(f"p{i}"), 0, i)
            refs[journal.add(batch)] = batch
            journal.post(Leased(GroupKey("train", 0, str(i)), "w", 0))
            await journal.sync()

        for begin in range(0, 40, 10):
            await asyncio.gather(journal.compact(), *(one(begin + i) for i in range(10)))
        await journal.close()

    asyncio.run(write())
    assert len(refs) == len(list(replay(disk))) - 1 == 40
    holds(disk, refs)


@pytest.mark.parametrize("kept", [True, False], ids=["page cache kept", "page cache lost"])
def test_a_crash_after_any_operation_leaves_all_answers_and_the_next_compaction_goes_on(
    memory_storage, make_group, kept: bool
):
    def prepared() -> tuple[dict[str, object], dict[PayloadRef, pa.RecordBatch]]:
        storage = memory_storage()
        return storage.files, written(storage, [make_group(f"p{i}") for i in range(5)], segment_bytes=1)

    whole = memory_storage(prepared()[0])
    compact_segments(whole, 9)
    operations = whole.operations
    assert operations >= 3 * len(segments(whole)) == 15
    for lives in range(operations):
        kept_files, refs = prepared()
        dying = memory_storage(kept_files, lives)
        with pytest.raises(OSError, match=f"dead after {lives} operations"):
            compact_segments(dying, 9)
        survivor = dying.after_crash(kept)
        holds(survivor, refs)
        compact_segments(survivor, 9)
        holds(survivor, refs)
        assert files(survivor) == files(whole)


def test_a_full_disk_leaves_the_streams_and_the_journal_as_they_were(memory_storage, make_group):
    async def fill() -> None:
        storage = memory_storage()
        journal = Journal(storage, DATA)
        batch = to_batch(make_group(), 0, 0)
        ref = journal.add(batch)
        await journal.sync()
        storage.room = 100
        with pytest.raises(OSError, match="no space left"):
            await journal.compact()
        assert files(storage) == ["segment-000001.arrow"]
        storage.room = 100_000
        await journal.sync()
        await journal.compact()
        await journal.close()
        assert files(storage) == ["segment-000001.parquet"]
        holds(storage, {ref: batch})

    asyncio.run(fill())


@pytest.mark.parametrize("torn", [-1, -9, -200], ids=["in its end mark", "in a batch", "in more of it"])
def test_a_segment_that_does_not_end_whole_stays_as_it_is(memory_storage, make_group, torn: int):
    storage = memory_storage()
    refs = written(storage, [make_group(f"p{i}") for i in range(3)])
    name = "segment-000001.arrow"
    del storage.files[name].content[torn:]
    left = bytes(storage.files[name].content)
    compact_segments(storage, 9)
    assert files(storage) == [name]
    assert storage.files[name].content == left
    whole = {ref: refs[ref] for ref in [PayloadRef(1, number) for number, _ in read_segment(storage, 1)]}
    assert len(whole) >= 2
    holds(storage, whole)


@pytest.mark.parametrize("filler", [0x00, 0xFF])
def test_a_hole_in_a_segment_is_never_followed_out_of_memory(memory_storage, make_group, filler: int):
    """Pages that a crash lost, between frames that are whole: 64 bytes of the file at a time."""
    storage = memory_storage()
    written(storage, [make_group(f"p{i}") for i in range(3)])
    name = "segment-000001.arrow"
    whole = bytes(storage.files[name].content)
    for start in range(0, len(whole), 64):
        storage.files[name].content[start : start + 64] = bytes([filler]) * len(whole[start : start + 64])
        compact_segments(storage, 9)
        if files(storage) != [name]:  # what is left makes sense
            storage.remove("segment-000001.parquet")
            storage.replace(name, whole)
        storage.files[name].content[:] = whole


def test_a_segment_cut_between_two_answers_is_whole(memory_storage, make_group):
    storage = memory_storage()
    refs = written(storage, [make_group("a"), make_group("b")])
    del storage.files["segment-000001.arrow"].content[-8:]  # the end mark, which a killed writer never writes
    compact_segments(storage, 9)
    assert files(storage) == ["segment-000001.parquet"]
    holds(storage, refs)


def test_a_segment_that_becomes_parquet_under_a_reader_is_still_found(memory_storage, make_group):
    storage = memory_storage()
    refs = written(storage, [make_group("a")])

    class Racing(memory_storage):  # type: ignore[misc, valid-type]
        def read(self, name: str) -> pa.Buffer:
            if name.endswith(".arrow"):
                compact_segments(storage, 9)
            return super().read(name)

    holds(Racing(storage.files), refs)
    assert files(storage) == ["segment-000001.parquet"]


def test_damage_to_a_compacted_segment_is_refused_or_does_no_harm(memory_storage, make_group):
    """Its pages have checksums, their headers do not."""
    storage = memory_storage()
    refs = written(storage, [make_group(f"p{i}", versions=range(50)) for i in range(20)], compacted=True)
    content = storage.files["segment-000001.parquet"].content
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    refused = []
    for at in range(4, footer, 29):
        content[at] ^= 1
        try:
            holds(storage, refs)
        except JournalDamaged as damaged:
            refused.append(str(damaged))
        content[at] ^= 1
    assert len(refused) > footer / 29 * 0.7
    assert all("segment-000001.parquet was damaged after it was written, restore it" in text for text in refused)
    holds(storage, refs)


def test_a_segment_that_is_gone_is_named(disk: LocalDisk):
    with pytest.raises(JournalDamaged, match=r"segment-000007.arrow is missing; restore it from a copy"):
        list(read_payloads(disk, [PayloadRef(7, 0)]))


@settings(max_examples=60)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=12),
    row_group_bytes=st.sampled_from([0, 500, 2000, 1 << 20]),
    data=st.data(),
)
def test_any_choice_of_answers_comes_back_whatever_the_row_groups(
    memory_storage, make_group, sizes: list[tuple[int, int]], row_group_bytes: int, data: st.DataObject
):
    storage = memory_storage()
    groups = [make_group(f"p{i}", [1.0] * samples, versions=range(n)) for i, (samples, n) in enumerate(sizes)]
    refs = written(storage, groups)
    compact_segments(storage, 9, row_group_bytes)
    holds(storage, refs)
    chosen = data.draw(st.sets(st.sampled_from(sorted(refs))))
    found = list(read_payloads(storage, chosen))
    assert [ref for ref, _ in found] == sorted(chosen)
    assert all(batch.equals(refs[ref]) for ref, batch in found)


# -- pieces -----------------------------------------------------------------------------------------------------


def reported(storage: Storage, keep: Collection[int] | None) -> list[PayloadRef]:
    """Five segments with a report each, then a compaction that keeps some of the reports, then one report more."""
    piece = Piece(0, "answer", 0, Segment.of([1], [-1.0], [0], None))
    report = pieces_to_batch(GroupProgress(GroupKey("train", 0, "p"), 0, (piece,)))

    async def write() -> list[PayloadRef]:
        journal = Journal(storage, DATA, segment_bytes=1)
        refs = [journal.add_pieces(report) for _ in range(5)]
        await journal.compact(None if keep is None else {refs[i] for i in keep})
        refs.append(journal.add_pieces(report))
        await journal.sync()
        await journal.compact({refs[i] for i in keep or []} | {refs[-1]} if keep is not None else None)
        await journal.close()
        return refs

    return asyncio.run(write())


def test_segments_of_pieces_go_when_nothing_in_them_is_needed(disk: LocalDisk):
    refs = reported(disk, keep={1, 4})
    assert refs == [PayloadRef(number, 0) for number in range(1, 7)]
    assert files(disk) == [f"pieces-00000{number}.arrow" for number in (2, 5, 6)]
    assert [ref for ref, _ in read_pieces(disk, [refs[1], refs[4], refs[5]])] == [refs[1], refs[4], refs[5]]


def test_pieces_stay_unless_it_is_said_which_are_needed(disk: LocalDisk):
    reported(disk, keep=None)
    assert len(files(disk)) == 6
