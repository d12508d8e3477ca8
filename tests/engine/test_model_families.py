"""Engine and learner agree on families of models, before and after an update, for dense models and for experts.

The weights come from a real learner, by the real transport; the engine's own are an export of that learner.
"""

import itertools

import numpy as np
import pytest
from families import CONTEXT_LENGTH, make_family

from rollout.config import EngineConfig
from rollout.memory_file import MemoryFile
from rollout.records import GenerationRequest, Segment, TrainingBatch
from rollout.weights import WeightSlot

pytestmark = [
    pytest.mark.engine,
    # What vllm and torch warn of when imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

TOLERANCE = 1e-3
SEQUENCES = [np.random.default_rng(n).integers(10, 200, n).astype(np.int32) for n in (30, 70)]

_numbers = itertools.count()


def make_learner(model_dir):
    from trainer.config import OptimConfig, TrainerConfig
    from trainer.learner import LearnerRank
    from trainer.rendezvous import free_port

    learner = LearnerRank(0, 1, model_dir, TrainerConfig(compute_dtype="float32"))
    learner.connect("127.0.0.1", free_port(), 30)
    learner.begin_phase(None, OptimConfig(lr=0.03), 10)
    return learner


def demonstrations() -> TrainingBatch:
    rng = np.random.default_rng(0)
    return TrainingBatch(
        token_ids=rng.integers(10, 200, 64).astype(np.int32),
        loss_mask=np.tile(np.arange(32) > 3, 2),
        behaviour_logprobs=np.zeros(64, np.float32),
        versions=np.full(64, -1, np.int32),
        lengths=np.array([32, 32], np.int32),
        rewards=np.ones(2, np.float32),
        group_ids=np.arange(2),
    )


async def answer(engine, prompt_ids) -> Segment:
    request = GenerationRequest(f"f{next(_numbers)}", prompt_ids, 40, 1.0, 7)
    return Segment.concatenate([piece async for piece in engine.generate(request)])


def disagreement(engine, learner, run) -> float:
    """Largest difference between the two's log-probs: of given sequences, and of an answer that the engine samples."""
    probes = zip(run(engine.logprobs(SEQUENCES)), learner.probe(SEQUENCES), strict=True)
    prompt_ids = SEQUENCES[0]
    sampled = run(answer(engine, prompt_ids))
    (whole,) = learner.probe([np.concatenate([prompt_ids, sampled.token_ids])])
    sides = [*probes, (sampled.logprobs, whole[len(prompt_ids) - 1 :])]
    return max(float(np.abs(a - b).max()) for a, b in sides)


@pytest.mark.parametrize(("family", "packed"), [("qwen3_moe", True), ("mixtral", False), ("llama", True)])
def test_engine_and_learner_agree_before_and_after_updates(family, packed, run, tmp_path, monkeypatch):
    from rollout.engine_env import ENGINE_ENV

    for name, value in ENGINE_ENV.items():
        monkeypatch.setenv(name, value)
    from rollout.vllm_engine import VllmEngine

    learner = make_learner(make_family(family, tmp_path / "model"))
    learner.step(demonstrations(), "sft")
    learner.export(str(tmp_path / "export"))
    config = EngineConfig(kv_cache_mb=32, max_num_seqs=4, packed_weights=packed)
    engine = VllmEngine(str(tmp_path / "export"), config, CONTEXT_LENGTH, seed=0)
    layout = learner.layout()
    files = [MemoryFile(f"rloop-family-{side}", layout.nbytes) for side in "ab"]
    try:
        assert disagreement(engine, learner, run) < TOLERANCE
        for version in (1, 2, 3):
            before = learner.probe(SEQUENCES)
            learner.step(demonstrations(), "sft")
            assert np.abs(learner.probe(SEQUENCES)[0] - before[0]).max() > 100 * TOLERANCE
            slot = WeightSlot(files[version % 2].path, layout, version)
            learner.stage(slot)
            run(engine.load_weights(slot))
            assert disagreement(engine, learner, run) < TOLERANCE
    finally:
        run(engine.close())
        learner.close()
        for file in files:
            file.close()
