"""Whole objectives: their loss and gradient on 1, 2 and 4 ranks, however the batch is split, and their parts."""

import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollout.records import TrainingBatch
from tests.unit.trainer.objective_ranks import CPU, one_step
from trainer.advantages.inputs import AdvantageInputs, Advantages
from trainer.advantages.reinforce import reinforce_pp_baseline
from trainer.config import CriticConfig, ImportanceConfig, KLConfig, RLConfig
from trainer.losses.nll import NLLLoss
from trainer.objectives import Objective, WeightedTerm, rl_objective, sft_objective
from trainer.rendezvous import free_port, join_ranks, leave_ranks
from verifiers.plugin import UnknownName

BatchMaker = Callable[..., TrainingBatch]
Case = tuple[TrainingBatch, Objective, int]
LENGTHS = [12, 30, 7, 18, 25, 9, 14, 31]
LONGEST = 28
MEASURED = {"evaluate_s", "forward_backward_s", "optimizer_s"}
CONFIGS: dict[str, RLConfig] = {
    "the default": RLConfig(),
    "GSPO": RLConfig(
        loss="gspo",
        clip_low=0.1,
        reduction="sequence_mean",
        importance=ImportanceConfig(mode="geometric_mask", cap=1.4),
    ),
    "Dr.GRPO": RLConfig(advantage="dr_grpo", reduction="constant", overlong_tokens=10),
    "CISPO, twice": RLConfig(loss="cispo", clip_low=1.0, advantage="rloo", minibatches=2),
    "PPO": RLConfig(advantage="gae", critic=CriticConfig(lam=0.9), minibatches=2),
    "REINFORCE++": RLConfig(advantage="reinforce_pp", loss="reinforce", kl=KLConfig(weight=0.1, in_reward=True)),
    "mixed proximal, KL and entropy": RLConfig(
        proximal="loglinear",
        kl=KLConfig(weight=0.5, estimator="k3"),
        entropy_weight=0.1,
        reduction="sequence_sum",
        importance=ImportanceConfig(mode="sequence_tis"),
    ),
}


def with_demonstrations(batch: TrainingBatch) -> TrainingBatch:
    """Two of the sequences as if nobody had sampled them."""
    demonstrated = np.repeat(np.arange(batch.num_sequences) % 4 == 1, batch.lengths)
    return dataclasses.replace(batch, versions=np.where(demonstrated, -1, batch.versions).astype(np.int32))


def mixed() -> Objective:
    rl = rl_objective(RLConfig(), LONGEST)
    return dataclasses.replace(rl, terms=(*rl.terms, WeightedTerm("nll", NLLLoss(), 0.3, "demonstrated")))


@pytest.fixture(scope="module")
def cases(make_batch: BatchMaker) -> dict[str, Case]:
    batch = make_batch(LENGTHS)
    found: dict[str, Case] = {
        name: (batch, rl_objective(config, LONGEST), config.minibatches) for name, config in CONFIGS.items()
    }
    return found | {"RL and demonstrations": (with_demonstrations(batch), mixed(), 1)}


@pytest.fixture(scope="module")
def on_one_rank(model_dir: Path, cases: dict[str, Case]) -> dict[str, dict[str, Any]]:
    """Everything in one micro-batch, in this process."""
    mesh = join_ranks(0, 1, "127.0.0.1", free_port(), 30, CPU)
    report = {
        name: one_step(model_dir, mesh, batch, objective, minibatches, max_tokens=10_000)
        for name, (batch, objective, minibatches) in cases.items()
    }
    leave_ranks()
    return report


@pytest.fixture(scope="module")
def on_several(model_dir: Path, cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two and four ranks report, in micro-batches of a sequence or two."""
    folder = tmp_path_factory.mktemp("objectives")
    (folder / "job.pickle").write_bytes(pickle.dumps({"model_dir": model_dir, "cases": cases, "max_tokens": 32}))
    script = [sys.executable, str(Path(__file__).with_name("objective_ranks.py"))]
    where = [str(free_port()), str(free_port()), str(folder)]
    processes = [subprocess.Popen([*script, str(rank), *where]) for rank in range(4)]
    try:
        assert [process.wait(timeout=200) for process in processes] == [0] * 4
    finally:
        for process in processes:
            process.kill()
    return folder


@pytest.mark.parametrize("ranks", [2, 4])
def test_neither_ranks_nor_micro_batches_change_any_objective(
    ranks: int, on_several: Path, on_one_rank: dict[str, dict[str, Any]]
) -> None:
    report = pickle.loads((on_several / f"ranks-{ranks}.pickle").read_bytes())
    for case, wanted in on_one_rank.items():
        got = report[case]
        assert got["metrics"]["loss"] == pytest.approx(wanted["metrics"]["loss"], abs=1e-6), case
        for name in wanted["metrics"].keys() - MEASURED:
            assert got["metrics"][name] == pytest.approx(wanted["metrics"][name], rel=1e-4, abs=1e-6), (case, name)
        for name, gradient in wanted["gradients"].items():
            np.testing.assert_allclose(got["gradients"][name], gradient, atol=1e-6, err_msg=f"{case}: {name}")


def test_every_objective_moves_the_policy_and_reports_its_terms(on_one_rank: dict[str, dict[str, Any]]) -> None:
    for case, report in on_one_rank.items():
        assert max(np.abs(g).max() for g in report["gradients"].values()) > 1e-4, case
        assert report["metrics"]["skipped"] == 0
    assert on_one_rank["PPO"]["metrics"]["loss_value"] > 0
    assert np.abs(on_one_rank["PPO"]["gradients"]["value_head.weight"]).max() > 0
    assert on_one_rank["mixed proximal, KL and entropy"]["metrics"]["reference_kl"] > 0
    both = on_one_rank["RL and demonstrations"]["metrics"]
    assert both["loss"] == pytest.approx(both["loss_policy"] + 0.3 * both["loss_nll"], abs=1e-6)


def test_each_term_is_normalised_by_its_own_tokens(
    model_dir: Path, make_batch: BatchMaker, on_one_rank: dict[str, dict[str, Any]]
) -> None:
    batch = with_demonstrations(make_batch(LENGTHS))
    demonstrated = batch.loss_mask & (batch.versions < 0)
    alone = dataclasses.replace(batch, loss_mask=demonstrated)
    mesh = join_ranks(0, 1, "127.0.0.1", free_port(), 30, CPU)
    report = one_step(model_dir, mesh, alone, sft_objective(), 1, 10_000)
    leave_ranks()
    together = on_one_rank["RL and demonstrations"]["metrics"]["loss_nll"]
    assert together == pytest.approx(report["metrics"]["loss"], abs=1e-6)


def test_a_misspelt_loss_or_advantage_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="no loss is called 'gsop'; did you mean 'gspo'"):
        rl_objective(RLConfig(loss="gsop"), 8)
    with pytest.raises(UnknownName, match="no advantage is called 'grop'; did you mean 'grpo'"):
        rl_objective(RLConfig(advantage="grop"), 8)


def test_a_loss_of_ones_own_is_named_by_its_path() -> None:
    objective = rl_objective(RLConfig(loss="trainer.losses.nll:NLLLoss"), 8)
    assert isinstance(objective.terms[0].term, NLLLoss)


def test_minibatches_share_advantages_that_were_formed_over_the_whole_batch(
    model_dir: Path, make_batch: BatchMaker
) -> None:
    """The first group's rewards spread widely, the second's little: each alone would be whitened to the same scale."""
    rewards = np.array([0, 8, 0, 8, 0, 1, 0, 1], np.float32)
    batch = dataclasses.replace(make_batch([12] * 8), rewards=rewards)
    seen: list[np.ndarray] = []

    class Watched:
        def __call__(self, inputs: AdvantageInputs) -> Advantages:
            seen.append(inputs.rewards)
            return reinforce_pp_baseline(inputs)

    objective = dataclasses.replace(rl_objective(RLConfig(minibatches=2), LONGEST), advantage=Watched())
    mesh = join_ranks(0, 1, "127.0.0.1", free_port(), 30, CPU)
    one_step(model_dir, mesh, batch, objective, 2, 10_000)
    leave_ranks()
    assert [x.tolist() for x in seen] == [rewards.tolist()]


def test_overlong_answers_cost_reward_before_advantages_are_formed(make_batch: BatchMaker) -> None:
    batch = dataclasses.replace(make_batch([11, 13, 7, 9], group_size=4), rewards=np.ones(4, np.float32))
    objective = rl_objective(RLConfig(advantage="reinforce", overlong_tokens=4), max_tokens=10)
    tokens = objective.advantages(batch, None, None).tokens  # responses of 8, 10, 4 and 6 tokens
    last = np.cumsum(batch.lengths) - 1
    np.testing.assert_allclose(tokens[last], [0.5, 0.0, 1.0, 1.0])
