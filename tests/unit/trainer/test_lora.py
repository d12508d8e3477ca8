"""Adapters on one rank; `test_families.py` has what two ranks train, stage and export."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from families import make_family
from peft import PeftModel
from transformers import AutoModelForCausalLM

from rollout.records import TrainingBatch
from trainer.config import LoraConfig, OptimConfig, TrainerConfig
from trainer.learner import LearnerRank
from trainer.rendezvous import free_port

BatchMaker = Callable[..., TrainingBatch]
OPTIM = OptimConfig(lr=1e-2, weight_decay=0.1)
LENGTHS = [12, 30, 7, 18, 25, 9, 14, 31]
SEQUENCES = [np.random.default_rng(n).integers(10, 200, n).astype(np.int32) for n in (3, 40, 17)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family("llama", tmp_path_factory.mktemp("lora") / "model")


@pytest.fixture
def rank(home: Path) -> Iterator[Callable[..., LearnerRank]]:
    """Makes a learner of one rank; a second call closes the first."""
    made: list[LearnerRank] = []

    def make(lora: LoraConfig, **changes: object) -> LearnerRank:
        for learner in made:
            learner.close()
        config = TrainerConfig(compute_dtype="float32", lora=lora).model_copy(update=changes)
        made.append(LearnerRank(0, 1, home, config))
        made[-1].connect("127.0.0.1", free_port(), 30)
        made[-1].begin_phase(None, OPTIM, 10)
        return made[-1]

    yield make
    for learner in made:
        learner.close()


def frozen(learner: LearnerRank) -> dict[str, torch.Tensor]:
    return {name: p.full_tensor().detach().clone() for name, p in learner.policy.model.items()}


def logprobs_by(model: torch.nn.Module) -> list[np.ndarray]:
    found = []
    for sequence in SEQUENCES:
        ids = torch.tensor(sequence, dtype=torch.int64)[None]
        with torch.no_grad():
            logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        found.append(logprobs.gather(-1, ids[0, 1:, None]).squeeze(-1).numpy())
    return found


def test_fresh_adapters_change_nothing_and_only_they_are_trained(
    rank: Callable[..., LearnerRank], make_batch: BatchMaker
) -> None:
    plain = rank(LoraConfig()).weights_hash()
    learner = rank(LoraConfig(rank=4))
    assert learner.weights_hash() == plain
    before = frozen(learner)
    learner.step(make_batch(LENGTHS), "sft")
    assert all(torch.equal(before[name], tensor) for name, tensor in frozen(learner).items())
    assert learner.weights_hash() != plain
    assert all(".lora_" in name for name in learner.policy.trained)
    adapted = sum(p.numel() for p in learner.policy.trained.values())
    assert adapted < 0.2 * sum(tensor.numel() for tensor in before.values())


def test_merged_weights_and_the_adapters_peft_loads_are_the_policy_that_was_trained(
    rank: Callable[..., LearnerRank], make_batch: BatchMaker, home: Path, tmp_path: Path
) -> None:
    learner = rank(LoraConfig(rank=4, alpha=8, targets=("q_proj", "down_proj")))
    for _ in range(3):
        learner.step(make_batch(LENGTHS), "sft")
    learner.export(str(tmp_path / "hf"))
    trained = learner.probe(SEQUENCES)
    merged = logprobs_by(AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32))
    base = AutoModelForCausalLM.from_pretrained(home, dtype=torch.float32)
    unadapted = logprobs_by(base)
    adapted = logprobs_by(PeftModel.from_pretrained(base, tmp_path / "adapter"))
    for by_us, by_merging, by_peft, before in zip(trained, merged, adapted, unadapted, strict=True):
        np.testing.assert_allclose(by_merging, by_us, atol=2e-5)
        np.testing.assert_allclose(by_peft, by_us, atol=2e-5)
        assert np.abs(before - by_us).max() > 0.01


def test_a_phase_starts_again_from_named_adapters(
    rank: Callable[..., LearnerRank], make_batch: BatchMaker, tmp_path: Path
) -> None:
    learner = rank(LoraConfig(rank=4))
    learner.step(make_batch(LENGTHS), "sft")
    learner.save(str(tmp_path / "theta-1"), optimizer=False)
    assert learner.saved(30)
    start = learner.weights_hash()
    learner.step(make_batch(LENGTHS), "sft")
    assert learner.weights_hash() != start
    assert rank(LoraConfig(rank=4)).begin_phase(str(tmp_path / "theta-1"), OPTIM, 10) == start


def test_targets_that_are_no_linear_layers_are_refused(rank: Callable[..., LearnerRank]) -> None:
    with pytest.raises(ValueError, match=r"name linear layers of the model, got qproj; it has down_proj, .*q_proj"):
        rank(LoraConfig(rank=4, targets=("qproj",)))
