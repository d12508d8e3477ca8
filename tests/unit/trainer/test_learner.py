"""The learner on one rank in this process and on two gloo ranks in processes of their own, started once."""

import dataclasses
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rollout.records import TrainingBatch
from rollout.weight_sums import promised, sums_in
from rollout.weights import WeightSlot
from trainer.config import GuardConfig, ImportanceConfig, KLConfig, OptimConfig, RFTConfig, RLConfig, TrainerConfig
from trainer.export import export_model
from trainer.guard import Guard, Standing
from trainer.learner import LearnerRank
from trainer.rendezvous import free_port, join_ranks

from .two_ranks import state_hash

BatchMaker = Callable[..., TrainingBatch]
OPTIM = OptimConfig(lr=1e-2, weight_decay=0.1)
CONFIG = TrainerConfig(compute_dtype="float32", micro_batch_tokens=4096)
LENGTHS = [12, 30, 7, 18, 25, 9, 14, 31]
OF_THE_MACHINE = {
    "train_s",
    "evaluate_s",
    "forward_backward_s",
    "optimizer_s",
    "learner_tokens_per_s",
    "learner_memory_gib",
}
SEQUENCES = [np.array([5, 6, 7], np.int32), np.array([9], np.int32), np.arange(2, 20, dtype=np.int32)]


def trainer_with(**changes: Any) -> TrainerConfig:
    return CONFIG.model_copy(update=changes)


@pytest.fixture
def one_rank(model_dir: Path) -> Iterator[Callable[..., LearnerRank]]:
    """Makes a one-rank learner in this process; a second call closes the first."""
    made: list[LearnerRank] = []

    def make(config: TrainerConfig = CONFIG) -> LearnerRank:
        for learner in made:
            learner.close()
        made.append(LearnerRank(0, 1, model_dir, config))
        made[-1].connect("127.0.0.1", free_port(), 30)
        made[-1].begin_phase(None, OPTIM, 10)
        return made[-1]

    yield make
    for learner in made:
        learner.close()


@pytest.fixture(scope="module")
def two_ranks(
    model_dir: Path, make_batch: BatchMaker, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """What two ranks left in a folder, and what each reported. Tiny micro-batches, so some ranks run empty ones."""
    folder = tmp_path_factory.mktemp("two-ranks")
    job = {
        "model_dir": model_dir,
        "config": trainer_with(micro_batch_tokens=32),
        "optim": OPTIM,
        "batch": make_batch(LENGTHS),
        "sequences": SEQUENCES,
    }
    (folder / "job.pickle").write_bytes(pickle.dumps(job))
    (folder / "slot").write_bytes(bytes(1 << 20))
    command = [sys.executable, str(Path(__file__).with_name("two_ranks.py"))]
    where = [str(free_port()), str(free_port()), str(folder)]
    processes = [subprocess.Popen([*command, str(rank), *where]) for rank in range(3)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()
    return folder, [pickle.loads((folder / f"rank-{rank}.pickle").read_bytes()) for rank in range(2)]


def gradients_after(learner: LearnerRank) -> dict[str, torch.Tensor]:
    """The first moments after one update: the clipped gradient times (1 - beta1)."""
    return {name: moment.clone() for name, key, moment in learner.optimizer.moments() if key == "exp_avg"}


def assert_same_update(got: LearnerRank, wanted: LearnerRank) -> None:
    expected = gradients_after(wanted)
    for name, moment in gradients_after(got).items():
        torch.testing.assert_close(moment, expected[name], atol=1e-7, rtol=1e-4)


def test_a_checkpoint_that_one_rank_cannot_write_fails_on_all_and_leaves_nothing(
    two_ranks: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, reports = two_ranks
    for report in reports:
        assert re.match(r"checkpoint \S+/refused could not be written \(.*\): it takes [\d,]+ bytes", report["refused"])
    assert not [path.name for path in folder.iterdir() if "refused" in path.name]


def test_one_and_two_ranks_agree_on_hash_probe_metrics_and_gradient(
    two_ranks: tuple[Path, list[dict[str, Any]]], one_rank: Callable[..., LearnerRank], make_batch: BatchMaker
) -> None:
    folder, reports = two_ranks
    learner = one_rank()
    first_hash, probe = learner.weights_hash(), learner.probe(SEQUENCES)
    nll = learner.nll(make_batch(LENGTHS))
    metrics = learner.step(make_batch(LENGTHS), "rl")
    moments = gradients_after(learner)
    for report in reports:
        assert report["nll"] == pytest.approx(nll, rel=1e-6)
        assert report["first_hash"] == first_hash
        for got, wanted in zip(report["probe"], probe, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-6)
        for name in metrics.keys() - OF_THE_MACHINE:
            assert report["metrics"][name] == pytest.approx(metrics[name], rel=1e-5, abs=1e-6), name
    learner.resume(str(folder / "checkpoint"), None, OPTIM, 10)
    for name, moment in gradients_after(learner).items():
        torch.testing.assert_close(moment, moments[name], atol=1e-7, rtol=1e-4)


def test_a_checkpoint_of_two_ranks_is_the_same_bit_for_bit_on_one_two_and_three(
    two_ranks: tuple[Path, list[dict[str, Any]]], one_rank: Callable[..., LearnerRank]
) -> None:
    """Weights, moments and counters, as they were at the call and not after the step that was trained meanwhile."""
    folder, reports = two_ranks
    saved = reports[0]["state"]
    assert saved == reports[0]["state_on_two"]
    assert reports[0]["hash_after_another_step"] != reports[0]["hash"]
    on_three = [pickle.loads((folder / f"of-three-{rank}.pickle").read_bytes()) for rank in range(3)]
    for report in on_three:
        assert (report["state"], report["hash"], report["counters"]) == (saved, reports[0]["hash"], (2, 1))
    learner = one_rank()
    learner.resume(str(folder / "checkpoint"), None, OPTIM, 10)
    assert learner.weights_hash() == reports[0]["hash"]
    assert state_hash(learner) == saved
    assert (learner.optimizer.steps_done, learner.optimizer.updates) == (2, 1)  # a batch was left out


def test_an_average_of_checkpoints_is_that_of_every_weight_and_the_same_on_one_and_two_ranks(
    two_ranks: tuple[Path, list[dict[str, Any]]], one_rank: Callable[..., LearnerRank]
) -> None:
    folder, reports = two_ranks
    learner = one_rank()
    held = {}
    for name in ("start", "checkpoint"):
        learner.begin_phase(str(folder / name), OPTIM, 10)
        held[name] = {key: shard.clone() for key, shard in learner.policy.shards().items()}
    merged = learner.merge([(str(folder / "start"), 0.75), (str(folder / "checkpoint"), 0.25)])
    assert reports[0]["merged"] == reports[1]["merged"] == merged
    for key, shard in learner.policy.shards().items():
        expected = 0.75 * held["start"][key].numpy() + 0.25 * held["checkpoint"][key].numpy()
        np.testing.assert_allclose(shard.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_random_states_continue_on_as_many_ranks_and_branch_from_the_first_on_others(
    two_ranks: tuple[Path, list[dict[str, Any]]], one_rank: Callable[..., LearnerRank]
) -> None:
    folder, reports = two_ranks
    assert not torch.equal(reports[0]["draw"], reports[1]["draw"])
    for report in reports:
        assert torch.equal(report["draw_again"], report["draw"])
    on_three = [pickle.loads((folder / f"of-three-{rank}.pickle").read_bytes())["draw"] for rank in range(3)]
    assert len({tuple(draw.tolist()) for draw in on_three}) == 3
    learner, draws = one_rank(), []
    for seed in (5, 6):
        torch.manual_seed(seed)
        learner.resume(str(folder / "checkpoint"), None, OPTIM, 10)
        draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1])  # from the checkpoint, not from what this process had drawn
    assert torch.equal(draws[0], on_three[0])


def test_two_ranks_leave_out_an_update_that_is_not_finite_together_and_keep_their_weights(
    two_ranks: tuple[Path, list[dict[str, Any]]],
) -> None:
    for report in two_ranks[1]:
        assert report["skipped"] == 1
        assert report["hash_after_refusal"] == report["hash"] != report["first_hash"]


def test_what_two_ranks_stage_and_export_are_the_weights_they_saved(
    two_ranks: tuple[Path, list[dict[str, Any]]], one_rank: Callable[..., LearnerRank]
) -> None:
    folder, reports = two_ranks
    learner = one_rank()
    learner.begin_phase(str(folder / "checkpoint"), OPTIM, 10)
    layout = learner.layout()
    of_two = reports[0]["layout"]
    assert of_two == reports[1]["layout"]
    assert layout.tensors == of_two.tensors
    staged = (folder / "slot").read_bytes()
    in_slot = np.frombuffer(staged, np.uint8)
    np.testing.assert_array_equal(sums_in(in_slot, of_two), promised(in_slot, of_two, version=7))
    exported = AutoModelForCausalLM.from_pretrained(folder / "export").state_dict()
    assert exported.keys() == {spec.name for spec in layout.tensors} | {"lm_head.weight"}
    for spec in layout.tensors:
        weights = learner.policy.model[spec.name].full_tensor().detach()
        in_file = np.frombuffer(staged, np.float32, weights.numel(), spec.offset).reshape(spec.shape)
        np.testing.assert_array_equal(in_file, weights.numpy())
        assert torch.equal(exported[spec.name], weights)
    assert AutoTokenizer.from_pretrained(folder / "export").decode([2, 12]) == "0,"


def test_what_rank_0_gathers_for_engines_to_push_is_what_both_ranks_wrote_into_the_file(
    two_ranks: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, (first, second) = two_ranks
    assert second["offered"] == []
    assert [(side, version) for side, version, _ in first["offered"]] == [(1, 7), (1, 9)]
    staged = (folder / "slot").read_bytes()
    for _, _, tensors in first["offered"]:
        for spec in first["layout"].tensors:
            gathered = tensors[spec.name].numpy()
            in_file = np.frombuffer(staged, np.float32, gathered.size, spec.offset).reshape(spec.shape)
            np.testing.assert_array_equal(gathered, in_file)


def test_the_micro_batch_split_changes_neither_loss_nor_gradient(
    one_rank: Callable[..., LearnerRank], make_batch: BatchMaker
) -> None:
    batch = make_batch(LENGTHS)
    whole = one_rank()
    metrics = whole.step(batch, "rl")
    moments = gradients_after(whole)
    split = one_rank(trainer_with(micro_batch_tokens=40))
    split_metrics = split.step(batch, "rl")
    assert split_metrics["loss"] == pytest.approx(metrics["loss"], abs=1e-6)
    assert split_metrics["grad_norm"] == pytest.approx(metrics["grad_norm"], rel=1e-5)
    for name, moment in gradients_after(split).items():
        torch.testing.assert_close(moment, moments[name], atol=1e-7, rtol=1e-4)


def test_the_loss_is_the_mean_over_tokens_and_not_over_sequences(
    one_rank: Callable[..., LearnerRank], make_batch: BatchMaker
) -> None:
    batch = make_batch([4, 6], group_size=1)  # 1 and 3 loss tokens
    learner = one_rank()
    parts = [batch.token_ids[:4], batch.token_ids[4:]]
    nll = np.concatenate([-logprobs[2:] for logprobs in learner.probe(parts)])
    assert learner.step(batch, "sft")["loss"] == pytest.approx(float(nll.mean()), rel=1e-5)


def test_a_look_at_the_likelihood_trains_nothing_and_does_not_depend_on_the_micro_batches(
    one_rank: Callable[..., LearnerRank], make_batch: BatchMaker
) -> None:
    batch = make_batch(LENGTHS)
    learner = one_rank()
    before = learner.weights_hash()
    rows = np.split(batch.token_ids, batch.starts[1:])
    masks = np.split(batch.loss_mask, batch.starts[1:])
    told = np.concatenate([-p[m[1:]] for p, m in zip(learner.probe(rows), masks, strict=True)])
    assert learner.nll(batch) == pytest.approx(float(told.mean()), rel=1e-5)
    assert learner.weights_hash() == before
    assert one_rank(trainer_with(micro_batch_tokens=32)).nll(batch) == pytest.approx(float(told.mean()), rel=1e-5)


def test_fine_tuning_held_near_its_start_has_no_pull_at_first_and_ends_nearer_to_it(
    one_rank: Callable[..., LearnerRank], make_batch: BatchMaker, tmp_path: Path
) -> None:
    batch = make_batch(LENGTHS)

    def tuned(kl_weight: float) -> list[dict[str, float]]:
        learner = one_rank(trainer_with(rft=RFTConfig(kl_weight=kl_weight)))
        return [learner.step(batch, "rft") for _ in range(6)]

    free, held = tuned(0.0), tuned(2.0)
    assert "loss_kl" not in free[0]
    assert held[0]["loss_kl"] == held[0]["reference_kl"] == 0
    assert held[0]["grad_norm"] == pytest.approx(free[0]["grad_norm"], rel=1e-5)
    assert held[-1]["loss"] == pytest.approx(held[-1]["loss_nll"] + 2 * held[-1]["loss_kl"], rel=1e-5)
    assert held[-1]["loss_kl"] > 0
    assert held[-1]["loss_nll"] > free[-1]["loss_nll"]  # what it pays for staying


def test_on_policy_metrics_show_no_mismatch(one_rank: Callable[..., LearnerRank], make_batch: BatchMaker) -> None:
    batch = make_batch(LENGTHS)
    learner = one_rank()
    sequences = np.split(batch.token_ids, batch.starts[1:])
    logprobs = np.concatenate([np.append(0, x) for x in learner.probe(sequences)]) * batch.loss_mask
    metrics = learner.step(dataclasses.replace(batch, behaviour_logprobs=logprobs.astype(np.float32)), "rl")
    assert metrics["mismatch_max"] < 1e-5
    assert metrics["mismatch_kl"] < 1e-9
    ruling, standing = Guard(GuardConfig(entropy=1e-3, patience=1)).judge(metrics, Standing())
    assert (ruling.reason, standing.grad_norms) == ("", (metrics["grad_norm"],))
    assert {"mismatch_kl", "ess_frac", "clip_frac", "entropy", "skipped"} <= metrics.keys()  # else nobody watches them
    assert metrics["is_weight_mean"] == pytest.approx(1, abs=1e-5)
    assert metrics["ess_frac"] == pytest.approx(1, abs=1e-5)
    assert metrics["clip_frac"] == metrics["is_clipped_frac"] == 0
    assert metrics["tokens"] == batch.num_loss_tokens
    assert 0 < metrics["entropy"] <= np.log(21)


def test_several_minibatches_update_several_times_at_one_rate_and_clip_against_the_start(
    one_rank: Callable[..., LearnerRank], make_batch: BatchMaker
) -> None:
    learner = one_rank(trainer_with(rl=RLConfig(minibatches=2)))
    metrics = learner.step(make_batch(LENGTHS), "rl")
    assert (learner.optimizer.updates, learner.optimizer.steps_done) == (2, 1)
    assert metrics["lr"] == pytest.approx(OPTIM.lr)
    assert metrics["clip_frac"] > 0  # the second update's ratios left 1, so its proximal policy is not its own


def test_minibatches_may_have_tokens_of_different_ages(
    one_rank: Callable[..., LearnerRank], make_batch: BatchMaker
) -> None:
    batch = make_batch(LENGTHS)
    old = np.repeat(batch.group_ids == 0, batch.lengths)  # the first minibatch, or with [1, 0] the second
    for stale in (old, ~old):
        versions = np.where(batch.loss_mask, np.where(stale, 2, 3), -1).astype(np.int32)
        learner = one_rank(trainer_with(rl=RLConfig(minibatches=2)))
        metrics = learner.step(dataclasses.replace(batch, versions=versions, version=3), "rl")
        assert metrics["fresh_frac"] == pytest.approx((~stale & batch.loss_mask).sum() / batch.num_loss_tokens)
        assert 0 < metrics["fresh_mismatch_abs"] <= metrics["fresh_mismatch_max"]


def test_a_step_whose_tokens_are_all_dropped_has_no_effective_sample(
    one_rank: Callable[..., LearnerRank], make_batch: BatchMaker
) -> None:
    dropping = RLConfig(importance=ImportanceConfig(mode="icepop", cap=1.0, floor=1.0))
    metrics = one_rank(trainer_with(rl=dropping)).step(make_batch(LENGTHS), "rl")
    assert (metrics["is_masked_frac"], metrics["ess_frac"]) == (1, 0)
    assert metrics["mismatch_abs"] > 0.1


@pytest.mark.parametrize("rl", [RLConfig(), RLConfig(proximal="loglinear"), RLConfig(loss="reinforce")])
def test_the_mismatch_is_the_learners_whatever_the_loss(
    rl: RLConfig, one_rank: Callable[..., LearnerRank], make_batch: BatchMaker
) -> None:
    batch = make_batch(LENGTHS)
    learner = one_rank(trainer_with(rl=rl))
    sequences = np.split(batch.token_ids, batch.starts[1:])
    own = np.concatenate([np.append(0, x) for x in learner.probe(sequences)])[batch.loss_mask]
    distances = np.abs(own - batch.behaviour_logprobs[batch.loss_mask])
    metrics = learner.step(batch, "rl")
    assert metrics["mismatch_abs"] == pytest.approx(distances.mean(), rel=1e-4)
    assert metrics["mismatch_max"] == pytest.approx(distances.max(), rel=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"activation_checkpointing": True}, {"reshard_after_forward": True}, {"cpu_offload": True}],
    ids=lambda options: next(iter(options)),
)
def test_what_saves_memory_changes_no_gradient(
    options: dict[str, bool], one_rank: Callable[..., LearnerRank], make_batch: BatchMaker
) -> None:
    batch = make_batch(LENGTHS)
    plain = one_rank()
    plain.step(batch, "rl")
    wanted = gradients_after(plain)
    saving = one_rank(trainer_with(**options, micro_batch_tokens=64))
    saving.step(batch, "rl")
    for name, moment in gradients_after(saving).items():
        torch.testing.assert_close(moment, wanted[name], atol=1e-7, rtol=1e-4)


def test_bfloat16_compute_stays_close_to_float32_and_keeps_float32_weights(
    one_rank: Callable[..., LearnerRank], make_batch: BatchMaker
) -> None:
    batch = make_batch(LENGTHS)
    exact = one_rank().step(batch, "sft")
    learner = one_rank(trainer_with(compute_dtype="bfloat16"))
    rounded = learner.step(batch, "sft")
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.01)
    assert rounded["loss"] != exact["loss"]
    assert rounded["grad_norm"] == pytest.approx(exact["grad_norm"], rel=0.05)
    assert all(p.dtype == torch.float32 for p in learner.policy.model.values())


def test_critic_and_reference_go_through_a_checkpoint_and_start_anew_with_a_phase(
    one_rank: Callable[..., LearnerRank], make_batch: BatchMaker, tmp_path: Path
) -> None:
    rl = RLConfig(advantage="gae", kl=KLConfig(weight=0.5))
    batches = [make_batch(LENGTHS, seed=seed) for seed in range(3)]
    learner = one_rank(trainer_with(rl=rl))
    learner.save(str(tmp_path / "start"), optimizer=False)
    assert learner.saved(30)
    learner.step(batches[0], "rl")
    learner.save(str(tmp_path / "middle"), optimizer=True)
    assert learner.saved(30)
    straight = [learner.step(batch, "rl") for batch in batches[1:]]
    end = learner.weights_hash()
    other = one_rank(trainer_with(rl=rl))
    other.resume(str(tmp_path / "middle"), str(tmp_path / "start"), OPTIM, 10)
    again = [other.step(batch, "rl") for batch in batches[1:]]
    for name in ("loss", "loss_value", "loss_kl", "reference_kl"):
        assert [m[name] for m in again] == [m[name] for m in straight]
    assert straight[0]["reference_kl"] > 0
    assert other.weights_hash() == end
    other.begin_phase(str(tmp_path / "start"), OPTIM, 10)
    assert other.step(batches[0], "rl")["reference_kl"] == 0
    other.begin_phase(str(tmp_path / "start"), OPTIM, 10)
    assert not any(shard.any() for name, shard in other.policy.shards().items() if name.startswith("value_head"))


def test_supervised_steps_lower_the_loss(one_rank: Callable[..., LearnerRank], make_batch: BatchMaker) -> None:
    learner, batch = one_rank(), make_batch(LENGTHS)
    losses = [learner.step(batch, "sft")["loss"] for _ in range(8)]
    assert losses[0] == pytest.approx(np.log(21), abs=0.05)
    assert losses[-1] < losses[0] - 0.5


def test_a_probe_sees_the_weights_of_the_last_step(
    one_rank: Callable[..., LearnerRank], make_batch: BatchMaker, tmp_path: Path
) -> None:
    learner = one_rank()
    learner.probe(SEQUENCES)
    learner.step(make_batch(LENGTHS), "sft")
    learner.export(str(tmp_path / "export"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    ids = torch.tensor(SEQUENCES[2], dtype=torch.int64)[None]
    wanted = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None]).squeeze(-1)
    np.testing.assert_allclose(learner.probe(SEQUENCES)[2], wanted.detach().numpy(), atol=1e-5)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    one_rank: Callable[..., LearnerRank], make_batch: BatchMaker, tmp_path: Path
) -> None:
    batches = [make_batch(LENGTHS, seed=seed) for seed in range(4)]
    schedule = OptimConfig(lr=1e-3, warmup_steps=2, decay="cosine")
    learner = one_rank()
    learner.begin_phase(None, schedule, 4)
    for batch in batches[:2]:
        learner.step(batch, "rl")
    learner.save(str(tmp_path / "middle"), optimizer=True)
    straight = [learner.step(batch, "rl")["lr"] for batch in batches[2:]]
    end = learner.weights_hash()
    assert learner.saved(30)
    other = one_rank()
    other.resume(str(tmp_path / "middle"), None, schedule, 4)
    assert [other.step(batch, "rl")["lr"] for batch in batches[2:]] == straight
    assert other.weights_hash() == end


def test_a_save_does_not_keep_the_learner_and_is_the_state_of_the_call(
    one_rank: Callable[..., LearnerRank], make_batch: BatchMaker, tmp_path: Path
) -> None:
    learner, disk = one_rank(), threading.Event()
    learner.step(make_batch(LENGTHS), "rl")
    at_the_call = state_hash(learner)
    learner.writer._thread.submit(disk.wait, 60)  # a slow disk: nothing is written before it is set
    learner.save(str(tmp_path / "checkpoint"), optimizer=True)
    learner.step(make_batch(LENGTHS, seed=1), "rl")
    assert not learner.saved(0.05)
    assert not (tmp_path / "checkpoint").exists()
    disk.set()
    assert learner.saved(30)
    assert state_hash(learner) != at_the_call
    learner.resume(str(tmp_path / "checkpoint"), None, OPTIM, 10)
    assert state_hash(learner) == at_the_call


def test_a_phase_starts_from_named_weights_with_a_fresh_optimizer(
    one_rank: Callable[..., LearnerRank], make_batch: BatchMaker, tmp_path: Path
) -> None:
    learner = one_rank()
    learner.save(str(tmp_path / "theta-0"), optimizer=False)
    assert learner.saved(30)
    start = learner.weights_hash()
    learner.step(make_batch(LENGTHS), "rl")
    assert learner.weights_hash() != start
    assert learner.begin_phase(str(tmp_path / "theta-0"), OPTIM, 10) == start
    assert (learner.optimizer.steps_done, learner.optimizer.updates) == (0, 0)
    assert all((moment == 0).all() for _, _, moment in learner.optimizer.moments())


def test_a_missing_checkpoint_and_a_batch_without_loss_are_refused(
    one_rank: Callable[..., LearnerRank], make_batch: BatchMaker, tmp_path: Path
) -> None:
    learner, batch = one_rank(), make_batch(LENGTHS)
    with pytest.raises(FileNotFoundError, match="no learner checkpoint at"):
        learner.begin_phase(str(tmp_path), OPTIM, 10)
    with pytest.raises(ValueError, match="must have loss tokens, got none in 8 sequences"):
        learner.step(dataclasses.replace(batch, loss_mask=np.zeros_like(batch.loss_mask)), "rl")


def test_a_foreign_layout_is_refused_before_anything_is_written(
    one_rank: Callable[..., LearnerRank], tmp_path: Path
) -> None:
    learner = one_rank()
    layout = learner.layout()
    foreign = dataclasses.replace(layout, tensors=layout.tensors[1:])
    (tmp_path / "slot").write_bytes(bytes(layout.nbytes))
    with pytest.raises(ValueError, match=r"got 1 that differ, first model\.embed_tokens\.weight: layout None"):
        learner.stage(WeightSlot(str(tmp_path / "slot"), foreign, 1))
    assert not any((tmp_path / "slot").read_bytes())
    (tmp_path / "slot").write_bytes(b"")
    with pytest.raises(ValueError, match=f"must hold {layout.nbytes} bytes, got 0"):
        learner.stage(WeightSlot(str(tmp_path / "slot"), layout, 1))


def test_bfloat16_weights_are_staged_and_exported_rounded_in_several_files(
    one_rank: Callable[..., LearnerRank], model_dir: Path, tmp_path: Path
) -> None:
    one_rank()
    learner = one_rank()
    parameters = learner.policy.model
    parts = {name: (name,) for name in parameters}
    export_model(tmp_path / "out", parameters, parts, model_dir, torch.bfloat16, file_bytes=20_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16).state_dict()
    for name, parameter in parameters.items():
        assert torch.equal(exported[name], parameter.full_tensor().bfloat16())


def test_a_rank_that_waits_alone_names_the_rendezvous() -> None:
    port = free_port()
    with pytest.raises(TimeoutError, match=f"learner rank 0 waited 1 s for 2 ranks at 127.0.0.1:{port}"):
        join_ranks(0, 2, "127.0.0.1", port, 1, torch.device("cpu"))
