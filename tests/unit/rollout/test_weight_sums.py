import numpy as np
import pytest

from rollout.engine import WeightsDisagree
from rollout.weight_sums import checksum, compare, promise, promised, sums_in
from rollout.weights import WeightLayout

LAYOUT = WeightLayout.of(
    [("embed", "float32", (257, 96)), ("norm", "bfloat16", (96,)), ("up", "bfloat16", (128, 96))], ranks=3
)


def rows_of(spec, rank, ranks=3):
    """(first byte, bytes) of a rank's rows, cut as FSDP2 cuts them."""
    each = -(-spec.shape[0] // ranks)
    first, last = min(rank * each, spec.shape[0]), min((rank + 1) * each, spec.shape[0])
    row = spec.nbytes // spec.shape[0]
    return first * row, (last - first) * row


@pytest.fixture
def file():
    """A file that three ranks wrote as version 5, rows and lines."""
    made = np.zeros(LAYOUT.nbytes, np.uint8)
    weights = np.random.default_rng(0).integers(0, 256, LAYOUT.table_offset).astype(np.uint8)
    for rank in range(3):
        sums = []
        for spec in LAYOUT.tensors:
            start, nbytes = rows_of(spec, rank)
            begin = spec.offset + start
            made[begin : begin + nbytes] = weights[begin : begin + nbytes]
            sums.append(checksum(weights[begin : begin + nbytes], start))
        promise(made, LAYOUT, rank, 5, sums)
    return made


def check(file):
    compare(sums_in(file, LAYOUT), promised(file, LAYOUT, 5), LAYOUT, 5)


def test_parts_of_all_ranks_add_up_to_what_is_read_wherever_their_rows_begin(file):
    check(file)


@pytest.mark.parametrize("at", [0, 4095, 4096, 70_003])
def test_a_flipped_bit_is_found_and_its_tensor_named(file, at):
    file[at] ^= 1
    with pytest.raises(WeightsDisagree, match=r"version 5 .*1 of 3 checksums differ, first embed"):
        check(file)


def test_rows_of_a_rank_that_did_not_come_are_found(file):
    spec = LAYOUT.tensors[2]
    start, nbytes = rows_of(spec, 1)
    file[spec.offset + start : spec.offset + start + nbytes] = 0
    with pytest.raises(WeightsDisagree, match="1 of 3 checksums differ, first up"):
        check(file)


def test_a_rank_that_wrote_nothing_of_this_version_is_named(file):
    with pytest.raises(WeightsDisagree, match="rank 0 of 3 has not written version 6: its rows are of version 5"):
        promised(file, LAYOUT, 6)


def test_blocks_that_changed_places_are_found(file):
    file[0:4096], file[8192:12288] = file[8192:12288].copy(), file[0:4096].copy()
    with pytest.raises(WeightsDisagree, match="embed"):
        check(file)


def test_rows_that_moved_by_one_are_found(file):
    spec = LAYOUT.tensors[0]
    file[spec.offset : spec.offset + spec.nbytes] = np.roll(file[spec.offset : spec.offset + spec.nbytes], 96 * 4)
    with pytest.raises(WeightsDisagree, match="embed"):
        check(file)
