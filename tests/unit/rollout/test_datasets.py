from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.datasets import SupervisedDataset, batch_rows, num_steps, write_supervised


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs", "expected"),
    [(100, 32, 1.0, 4), (100, 25, 1.0, 4), (100, 25, 0.5, 2), (100, 25, 0.1, 1), (8, 64, 3.0, 3), (90, 30, 2.1, 7)],
)
def test_number_of_steps(rows, batch_size, epochs, expected):
    assert num_steps(rows, batch_size, epochs) == expected


def test_every_epoch_has_every_row_once_in_an_order_of_its_own():
    rows = [int(row) for step in range(8) for row in batch_rows(20, 5, seed=1, step=step)]
    assert sorted(rows[:20]) == sorted(rows[20:]) == list(range(20))
    assert rows[:20] != rows[20:]


def test_batches_are_always_full_and_run_over_the_end_of_an_epoch():
    batches = [batch_rows(7, 3, seed=1, step=step) for step in range(7)]
    assert {len(batch) for batch in batches} == {3}
    assert Counter(int(row) for batch in batches for row in batch) == dict.fromkeys(range(7), 3)


def test_a_batch_larger_than_the_data_is_the_data():
    assert sorted(batch_rows(4, 64, seed=0, step=5)) == [0, 1, 2, 3]


def test_a_file_comes_back_row_by_row(tmp_path: Path):
    path = tmp_path / "deep" / "demos.parquet"
    assert write_supervised(path, [([1, 2], [3]), ([4], [5, 6])]) == 2
    data = SupervisedDataset(path)
    assert [(e.prompt_ids.tolist(), e.response_ids.tolist()) for e in map(data.__getitem__, range(2))] == [
        ([1, 2], [3]),
        ([4], [5, 6]),
    ]
    assert [p.name for p in path.parent.iterdir()] == ["demos.parquet"]  # nothing left of the atomic write


def test_examples_without_an_answer_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="got 2 and 0 tokens in row 1"):
        write_supervised(tmp_path / "x.parquet", [([1], [2]), ([1, 2], [])])


def test_an_empty_file_is_refused(tmp_path: Path):
    write_supervised(tmp_path / "x.parquet", [])
    with pytest.raises(ValueError, match="has no examples"):
        SupervisedDataset(tmp_path / "x.parquet")


def test_a_file_without_the_columns_is_refused(tmp_path: Path):
    pq.write_table(pa.table({"prompt_ids": [[1]]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"lacks \['response_ids'\]"):
        SupervisedDataset(tmp_path / "x.parquet")


def test_without_a_mask_the_whole_response_is_imitated(tmp_path: Path):
    write_supervised(tmp_path / "x.parquet", [([1], [2, 3])])
    assert SupervisedDataset(tmp_path / "x.parquet")[0].loss_mask.tolist() == [True, True]


def test_a_mask_of_another_length_than_its_response_is_refused(tmp_path: Path):
    rows = {"prompt_ids": [[1], [1]], "response_ids": [[2, 3], [4]], "loss_mask": [[True, False], [True, True]]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="as many entries as its response_ids"):
        SupervisedDataset(tmp_path / "x.parquet")


def test_a_prompt_is_held_out_with_all_its_answers_or_not_at_all(tmp_path: Path):
    path = tmp_path / "demos.parquet"
    write_supervised(path, [([prompt % 100, 7], [answer]) for answer in range(5) for prompt in range(100)])
    data = SupervisedDataset(path)
    trained, held_out = data.split(0.2, seed=3)
    assert sorted([*trained, *held_out]) == list(range(500))
    prompts = [{int(data[row].prompt_ids[0]) for row in rows} for rows in (trained, held_out)]
    assert not prompts[0] & prompts[1]
    assert 8 <= len(prompts[1]) <= 35  # 20 of 100, within four standard deviations
    again = data.split(0.2, seed=3)
    assert [rows.tolist() for rows in again] == [trained.tolist(), held_out.tolist()]
    assert set(data.split(0.2, seed=4)[1].tolist()) != set(held_out.tolist())


def test_nothing_is_held_out_of_data_that_would_have_nothing_left(tmp_path: Path):
    path = tmp_path / "demos.parquet"
    write_supervised(path, [([1], [2]), ([1], [3])])
    data = SupervisedDataset(path)
    splits = [[len(rows) for rows in data.split(0.99, seed)] for seed in range(20)]
    assert [2, 0] in splits
    assert all(trained for trained, _ in splits)
    assert [len(rows) for rows in data.split(0.0, 1)] == [2, 0]
