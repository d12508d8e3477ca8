from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rollout.records import TrainingBatch
from trainer.config import ScratchConfig
from trainer.scratch import make_model

BatchMaker = Callable[..., TrainingBatch]


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = ScratchConfig(
        hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=32, intermediate_size=48
    )
    return make_model(scratch, tmp_path_factory.mktemp("model") / "scratch", context_length=64, seed=0)


@pytest.fixture(scope="session")
def make_batch() -> BatchMaker:
    def make(lengths: list[int], prompt: int = 3, group_size: int = 4, seed: int = 0) -> TrainingBatch:
        rng = np.random.default_rng(seed)
        lengths_S = np.array(lengths, np.int32)
        total = int(lengths_S.sum())
        position = np.concatenate([np.arange(n) for n in lengths])
        mask = position >= prompt
        return TrainingBatch(
            token_ids=rng.integers(2, 21, total).astype(np.int32),
            loss_mask=mask,
            behaviour_logprobs=np.where(mask, rng.normal(-3.0, 0.3, total), 0.0).astype(np.float32),
            versions=np.where(mask, 0, -1).astype(np.int32),
            lengths=lengths_S,
            rewards=rng.integers(0, 2, len(lengths)).astype(np.float32),
            group_ids=(np.arange(len(lengths)) // group_size).astype(np.int32),
        )

    return make
