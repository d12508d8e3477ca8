"""Two real learner ranks on a real local cluster, one of which hangs or dies in the middle of a collective."""

import asyncio
import os
import signal
import time

import pytest

from actors.learner_group import LearnerGroup
from actors.waiting import PeerLost
from cluster.launch import connect
from trainer.config import OptimConfig, ScratchConfig, TrainerConfig
from trainer.learner import LearnerRank
from trainer.learner_env import LEARNER_ENV
from trainer.scratch import make_model

pytestmark = pytest.mark.ray

COLLECTIVES_S = 4.0


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    scratch = ScratchConfig(
        hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=32, intermediate_size=48
    )
    return make_model(scratch, tmp_path_factory.mktemp("model") / "scratch", context_length=64, seed=0)


@pytest.fixture
def ranks(ray_app, model_dir, tmp_path):
    config = TrainerConfig(compute_dtype="float32")
    peers = {
        f"learner-{rank}": ray_app.host(
            LearnerRank,
            f"learner-{rank}-{time.monotonic_ns()}",
            *(rank, 2, model_dir, config),
            log_file=str(tmp_path / f"learner-{rank}.log"),
            deadline_s=60,
            env=LEARNER_ENV,
            comes_back=False,
        )
        for rank in range(2)
    }
    yield peers
    for peer in peers.values():
        peer.kill()


@pytest.mark.parametrize(
    ("hit", "error", "says"),
    [
        (signal.SIGSTOP, TimeoutError, "learner rank 0 waited in vain for another rank in weights_hash"),
        (signal.SIGKILL, PeerLost, "died during weights_hash"),
    ],
)
def test_a_rank_that_hangs_or_dies_is_felt_by_the_deadline_and_not_in_half_an_hour(ranks, hit, error, says):
    async def run() -> float:
        await connect(ranks, 60, COLLECTIVES_S)
        group = LearnerGroup(list(ranks.values()))
        await group.begin_phase(None, OptimConfig(), 10)
        os.kill(await ranks["learner-1"].call("process_id"), hit)
        began = time.monotonic()
        with pytest.raises(error, match=says):
            await group.weights_hash()
        return time.monotonic() - began

    assert asyncio.run(run()) < COLLECTIVES_S + 8
