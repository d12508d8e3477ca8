import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from rollout.records import TrainingBatch
from trainer.columns import Columns
from trainer.objectives import sft_objective

CPU = torch.device("cpu")


def test_fresh_are_the_tokens_of_answers_that_began_with_the_weights_to_be_trained(
    make_batch: Callable[..., TrainingBatch],
) -> None:
    batch = make_batch([5, 6, 6], prompt=2)
    versions = np.array([-1, -1, 7, 7, 7, -1, -1, 6, 6, 7, 7, -1, -1, 6, 6, 6, 6], np.int32)
    columns = Columns.of(dataclasses.replace(batch, versions=versions, version=7), sft_objective(), CPU)
    assert torch.nonzero(columns.fresh).flatten().tolist() == [2, 3, 4]  # the second answer's 7s saw KV of version 6
    demonstrations = dataclasses.replace(batch, versions=np.full(17, -1, np.int32))
    assert not Columns.of(demonstrations, sft_objective(), CPU).fresh.any()
