"""Families of models, dense and with experts: what two ranks load, train, stage and export is what transformers has."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, make_family
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rollout.adoption import view
from rollout.records import TrainingBatch
from rollout.weight_check import check_tensors, checkpoint_tensors
from rollout.weights import WeightSlot
from trainer.config import LoraConfig, OptimConfig, TrainerConfig
from trainer.learner import LearnerRank
from trainer.rendezvous import free_port

OPTIM = OptimConfig(lr=1e-2)
CONFIG = TrainerConfig(compute_dtype="float32", micro_batch_tokens=64)
ADAPTED = "llama with adapters"
WITH_ADAPTERS = CONFIG.model_copy(update={"lora": LoraConfig(rank=6, alpha=12)})
LENGTHS = [12, 30, 7, 18, 25, 9, 14, 31]
SEQUENCES = [np.random.default_rng(n).integers(10, 200, n).astype(np.int32) for n in (3, 40, 17)]


@pytest.fixture(scope="module")
def folder(make_batch: Callable[..., TrainingBatch], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks did to each model: see two_ranks_of_families.py. Models lie in <family>/model."""
    folder = tmp_path_factory.mktemp("families")
    models = {family: (make_family(family, folder / family / "model"), CONFIG) for family in FAMILIES}
    models[ADAPTED] = (make_family("llama", folder / ADAPTED / "model"), WITH_ADAPTERS)
    job = {"models": models, "optim": OPTIM, "batch": make_batch(LENGTHS), "sequences": SEQUENCES}
    (folder / "job.pickle").write_bytes(pickle.dumps(job))
    script, ports = str(Path(__file__).with_name("two_ranks_of_families.py")), [str(free_port()) for _ in models]
    processes = [subprocess.Popen([sys.executable, script, str(rank), *ports, str(folder)]) for rank in range(2)]
    try:
        assert [process.wait(timeout=180) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return folder


@pytest.fixture(params=FAMILIES)
def home(request: pytest.FixtureRequest, folder: Path) -> Path:
    """The folder of one family."""
    return folder / str(request.param)


def told(home: Path, rank: int = 0) -> dict[str, Any]:
    return pickle.loads((home / f"rank-{rank}.pickle").read_bytes())


@torch.no_grad()
def logprobs_of(model_dir: Path) -> list[np.ndarray]:
    """What transformers gives the sequences, in evaluation mode."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    found = []
    for sequence in SEQUENCES:
        ids = torch.tensor(sequence, dtype=torch.int64)[None]
        logprobs = model(ids).logits[0, :-1].log_softmax(-1)
        found.append(logprobs.gather(-1, ids[0, 1:, None]).squeeze(-1).numpy())
    return found


def test_log_probs_are_those_of_transformers(home: Path) -> None:
    for got, wanted in zip(told(home)["before"], logprobs_of(home / "model"), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_one_rank_and_two_load_the_same_weights_and_find_the_same_gradient(
    home: Path, make_batch: Callable[..., TrainingBatch]
) -> None:
    learner = LearnerRank(0, 1, home / "model", CONFIG)
    learner.connect("127.0.0.1", free_port(), 30)
    try:
        assert learner.begin_phase(None, OPTIM, 10) == told(home)["first_hash"]
        learner.step(make_batch(LENGTHS), "rl")
        wanted = {name: moment.clone() for name, key, moment in learner.optimizer.moments() if key == "exp_avg"}
        assert all(moment.abs().max() > 0 for moment in wanted.values())
        learner.resume(str(home / "checkpoint"), None, OPTIM, 10)
        for name, key, moment in learner.optimizer.moments():
            if key == "exp_avg":
                torch.testing.assert_close(moment, wanted[name], atol=1e-7, rtol=1e-4)
    finally:
        learner.close()


def test_an_export_has_the_names_of_the_model_and_loads_in_transformers(home: Path) -> None:
    original, exported = (load_file(home / kind / "model.safetensors") for kind in ("model", "export"))
    assert {name: (t.shape, t.dtype) for name, t in exported.items()} == {
        name: (t.shape, t.dtype) for name, t in original.items()
    }
    assert not any(torch.equal(exported[name], original[name]) for name in original)  # a step lies between them
    for got, wanted in zip(logprobs_of(home / "export"), told(home)["after"], strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert AutoTokenizer.from_pretrained(home / "export").encode("ab") == AutoTokenizer.from_pretrained(
        home / "model"
    ).encode("ab")
    assert GenerationConfig.from_pretrained(home / "export") == GenerationConfig.from_pretrained(home / "model")


def test_what_is_staged_or_gathered_for_engines_are_the_tensors_of_an_export(home: Path) -> None:
    exported, found = load_file(home / "export" / "model.safetensors"), told(home)
    layout, file = found["layout"], torch.from_numpy(np.fromfile(home / "slot", np.uint8))
    assert layout == told(home, rank=1)["layout"]
    check_tensors(WeightSlot("", layout, 1), checkpoint_tensors(home / "model", "float32"))
    assert exported.keys() == {piece.name for piece in layout.pieces} == found["offered"].keys()
    for piece in layout.pieces:
        assert torch.equal(view(file, piece), exported[piece.name])
        assert torch.equal(found["offered"][piece.name], exported[piece.name])


def test_an_export_in_several_files_never_splits_what_one_parameter_holds(home: Path, tmp_path: Path) -> None:
    from trainer.export import export_model

    learner = LearnerRank(0, 1, home / "model", CONFIG)
    learner.connect("127.0.0.1", free_port(), 30)
    try:
        parts = {spec.name: spec.parts for spec in learner.layout().tensors}
        export_model(tmp_path / "out", learner.policy.model, parts, home / "model", torch.float32, 30_000)
    finally:
        learner.close()
    where = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(where.values())) > 4
    assert all(len({where[name] for name in names}) == 1 for names in parts.values())
    for got, wanted in zip(logprobs_of(tmp_path / "out"), logprobs_of(home / "model"), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_two_ranks_train_stage_and_export_the_same_adapters_as_one(
    folder: Path, make_batch: Callable[..., TrainingBatch]
) -> None:
    home = folder / ADAPTED
    found = told(home)
    learner = LearnerRank(0, 1, home / "model", WITH_ADAPTERS)
    learner.connect("127.0.0.1", free_port(), 30)
    try:
        assert learner.begin_phase(None, OPTIM, 10) == found["first_hash"]
        metrics = learner.step(make_batch(LENGTHS), "rl")
        assert metrics["grad_norm"] == pytest.approx(found["metrics"]["grad_norm"], rel=1e-5)
        wanted = {name: moment.clone() for name, key, moment in learner.optimizer.moments() if key == "exp_avg"}
        learner.resume(str(home / "checkpoint"), None, OPTIM, 10)
        for name, key, moment in learner.optimizer.moments():
            if key == "exp_avg":
                torch.testing.assert_close(moment, wanted[name], atol=1e-7, rtol=1e-4)
    finally:
        learner.close()
    for got, merged in zip(found["after"], logprobs_of(home / "export"), strict=True):
        np.testing.assert_allclose(got, merged, atol=1e-5)
    exported, file = (
        load_file(home / "export" / "model.safetensors"),
        torch.from_numpy(np.fromfile(home / "slot", "u1")),
    )
    for piece in found["layout"].pieces:
        assert torch.equal(view(file, piece), exported[piece.name])
        assert torch.equal(found["offered"][piece.name], exported[piece.name])
