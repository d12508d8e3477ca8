"""The same weights in engine and learner: what the engine says of its own answers, and what the learner does."""

import itertools

import numpy as np
import pytest

from rollout.config import EngineConfig
from rollout.records import GenerationRequest, Segment, TrainingBatch

pytestmark = [
    pytest.mark.engine,
    # What vllm and torch warn of when imported.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

TEMPERATURES = (1.0, 0.6, 1.4)
PROMPTS = [np.random.default_rng(n).integers(2, 21, n).astype(np.int32) for n in (4, 11, 23, 37)]

_numbers = itertools.count()


async def answer(engine, prompt_ids, temperature) -> Segment:
    number = next(_numbers)
    request = GenerationRequest(f"a{number}", prompt_ids, 60, temperature, seed=number)
    return Segment.concatenate([piece async for piece in engine.generate(request)])


def batch_of(answers: list[Segment]) -> TrainingBatch:
    """The answers to the prompts, as the buffer would pack them for a step from version 0."""
    mask = np.concatenate([np.arange(len(p) + len(a)) >= len(p) for p, a in zip(PROMPTS, answers, strict=True)])
    logprobs, versions = np.zeros(len(mask), np.float32), np.full(len(mask), -1, np.int32)
    logprobs[mask] = np.concatenate([a.logprobs for a in answers])
    versions[mask] = np.concatenate([a.versions for a in answers])
    return TrainingBatch(
        token_ids=np.concatenate([ids for p, a in zip(PROMPTS, answers, strict=True) for ids in (p, a.token_ids)]),
        loss_mask=mask,
        behaviour_logprobs=logprobs,
        versions=versions,
        lengths=np.array([len(p) + len(a) for p, a in zip(PROMPTS, answers, strict=True)], np.int32),
        rewards=np.array([1, 0, 1, 0], np.float32),
        group_ids=np.zeros(4, np.int32),
        version=0,
    )


def test_engine_and_learner_agree_to_1e_4_at_any_temperature(run, tmp_path, monkeypatch):
    from rollout.engine_env import ENGINE_ENV

    for name, value in ENGINE_ENV.items():
        monkeypatch.setenv(name, value)
    from rollout.vllm_engine import VllmEngine
    from trainer.config import OptimConfig, ScratchConfig, TrainerConfig
    from trainer.learner import LearnerRank
    from trainer.rendezvous import free_port
    from trainer.scratch import make_model

    model = make_model(ScratchConfig(), tmp_path / "model", context_length=128, seed=0)
    engine = VllmEngine(str(model), EngineConfig(kv_cache_mb=32, max_num_seqs=8), 128, seed=0)
    try:
        for temperature in TEMPERATURES:
            learner = LearnerRank(
                0, 1, model, TrainerConfig(compute_dtype="float32"), temperature=temperature, max_new_tokens=60
            )
            learner.connect("127.0.0.1", free_port(), 30)
            learner.begin_phase(None, OptimConfig(), 10)
            answers = [run(answer(engine, prompt, temperature)) for prompt in PROMPTS]
            metrics = learner.step(batch_of(answers), "rl")
            learner.close()
            assert metrics["tokens"] > 20
            assert metrics["fresh_frac"] == 1
            assert 0 < metrics["fresh_mismatch_max"] <= 1e-4, temperature
            assert metrics["mismatch_max"] <= 1e-4
            assert metrics["mismatch_kl"] <= 1e-8
    finally:
        run(engine.close())
