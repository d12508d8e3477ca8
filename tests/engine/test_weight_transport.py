"""How a version's bytes reach an engine: checked before it takes them, adopted where they lie, fetched from ranks."""

import dataclasses

import numpy as np
import pytest

from rollout.engine import WeightsDisagree, WeightsMissing
from rollout.memory_file import mapped
from rollout.transports.tcp import RowServer

pytestmark = [
    pytest.mark.engine,
    # What vllm and torch warn of when imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

PROBE = [np.random.default_rng(5).integers(10, 200, 30).astype(np.int32)]


def off_by(engine, reference, run) -> float:
    """Largest difference between the engine's log-probs and those of the learner's model as it is now."""
    (found,) = run(engine.logprobs(PROBE))
    return float(np.abs(found - reference.logprobs(PROBE[0])[np.arange(29), PROBE[0][1:]]).max())


def test_a_plain_engine_computes_with_each_version_where_it_lies(plain_engine, plain_reference, run):
    for _ in range(4):
        run(plain_engine.load_weights(plain_reference.stage_new_weights()))
        assert off_by(plain_engine, plain_reference, run) < 1e-4


def test_a_flipped_byte_is_refused_by_name_and_the_engine_keeps_what_it_has(plain_engine, plain_reference, run):
    run(plain_engine.load_weights(plain_reference.stage_new_weights()))
    before = run(plain_engine.logprobs(PROBE))
    slot = plain_reference.stage_new_weights()
    spec = slot.layout.tensors[5]
    file = mapped(slot.path, slot.layout.nbytes)
    file[spec.offset + 11] ^= 4
    with pytest.raises(WeightsDisagree, match=f"1 of {len(slot.layout.tensors)} checksums differ, first {spec.name}"):
        run(plain_engine.load_weights(slot))
    assert plain_engine.version == slot.version - 1
    np.testing.assert_array_equal(run(plain_engine.logprobs(PROBE))[0], before[0])
    file[spec.offset + 11] ^= 4
    run(plain_engine.load_weights(slot))
    assert off_by(plain_engine, plain_reference, run) < 1e-4


def test_rows_fetched_from_two_ranks_are_loaded_as_shared_memory_is(plain_engine, plain_reference, run):
    slot = plain_reference.stage_new_weights()
    file, half = mapped(slot.path, slot.layout.nbytes), slot.layout.nbytes // 2
    ranks = [RowServer("127.0.0.1") for _ in range(2)]
    ranks[0].offer(0, slot.version, file, [(0, half)])
    remote = dataclasses.replace(
        slot, path="", layout=dataclasses.replace(slot.layout, sources=tuple(rank.source for rank in ranks))
    )
    with pytest.raises(WeightsMissing, match="is not staged here"):
        run(plain_engine.load_weights(remote))
    ranks[1].offer(0, slot.version, file, [(half, slot.layout.nbytes - half)])
    run(plain_engine.load_weights(remote))
    assert plain_engine.version == slot.version
    assert off_by(plain_engine, plain_reference, run) < 1e-4
    for rank in ranks:
        rank.close()
