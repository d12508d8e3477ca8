"""A layout lists what the learner's ranks write; its pieces are what engines load."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.weights import ITEM_SIZES, TensorSpec, WeightLayout

sizes = st.integers(1, 4)


@given(sizes, sizes, sizes, sizes, st.sampled_from(sorted(ITEM_SIZES)))
def test_pieces_are_the_matrices_of_each_expert_end_to_end(
    experts: int, per_expert: int, rows: int, columns: int, dtype: str
) -> None:
    whole = np.arange(experts * per_expert * rows * columns).reshape(experts, per_expert * rows, columns)
    names = tuple(f"{expert}.{kind}" for expert in range(experts) for kind in range(per_expert))
    layout = WeightLayout.of([("norm", dtype, (3,)), ("fused", dtype, whole.shape)], parts={"fused": names})
    norm, *pieces = layout.pieces
    assert norm == layout.tensors[0]
    assert tuple(piece.name for piece in pieces) == names
    elements, base = whole.reshape(-1), layout.tensors[1].offset
    for piece in pieces:
        first = (piece.offset - base) // ITEM_SIZES[dtype]
        expert, kind = map(int, piece.name.split("."))
        wanted = np.split(whole[expert], per_expert)[kind] if len(names) > 1 else whole
        np.testing.assert_array_equal(elements[first : first + wanted.size].reshape(piece.shape), wanted)


def test_a_spec_survives_the_way_to_another_process_as_a_dict_of_lists() -> None:
    spec = TensorSpec("fused", "float32", (2, 4, 3), 64, ("a", "b"))
    fields = dataclasses.asdict(spec) | {"shape": [2, 4, 3], "parts": ["a", "b"]}
    assert TensorSpec(**fields) == spec


@pytest.mark.parametrize("parts", [(), ("other",)])
def test_one_part_is_the_tensor_itself_by_that_name(parts: tuple[str, ...]) -> None:
    (piece,) = TensorSpec("own", "float32", (2, 4, 3), 64, parts).pieces()
    assert piece == TensorSpec(parts[0] if parts else "own", "float32", (2, 4, 3), 64)
