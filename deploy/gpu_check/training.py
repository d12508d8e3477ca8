"""Parts of the learner: packed attention against one sequence at a time, and optimizer steps."""

import contextlib
import importlib.metadata
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deploy.gpu_check.place import CONTEXT_LENGTH, SHAPE, TOLERANCE, Place, Wrong
from rollout.records import FloatArray, IntArray, TrainingBatch
from trainer.attention import choose_attention
from trainer.config import OptimConfig, ScratchConfig, TrainerConfig
from trainer.learner import LearnerRank
from trainer.memory import GIB, Shape, rank_memory
from trainer.rendezvous import free_port, rank_device
from trainer.scratch import make_model

LENGTHS = (97, 33, 200, 33, 33, 64)
_LARGER = SHAPE.model_copy(
    update={"hidden_size": 1024, "num_layers": 12, "num_heads": 8, "num_kv_heads": 4, "intermediate_size": 3072}
)
WORK = {
    "cuda": (_LARGER, 64, 1024),
    "cpu": (SHAPE, 16, 128),
}
"""Model, sequences and their length. On a GPU large enough that the formula's constants do not decide."""
_PROMPT = 32
_LEEWAY = 1.5  # how much more than the formula a rank may take before `rloop plan` is called wrong


@contextmanager
def one_rank(model: Path, **config: Any) -> Iterator[LearnerRank]:
    """One rank, in this process."""
    options = {name: config.pop(name) for name in ("compute_dtype", "micro_batch_tokens") if name in config}
    rank = LearnerRank(0, 1, model, TrainerConfig(**options), **config)
    try:
        rank.connect("127.0.0.1", free_port(), timeout_s=60)
        yield rank
    finally:
        rank.close()


def random_sequences(lengths: Sequence[int]) -> list[IntArray]:
    """Bytes without meaning."""
    rng = np.random.default_rng(0)
    return [rng.integers(4, 260, length).astype(np.int32) for length in lengths]


def largest_difference(some: Sequence[FloatArray], others: Sequence[FloatArray]) -> float:
    """In nats, over all tokens of all sequences; infinite where there is no number."""
    found = max(float(np.abs(a - b).max()) for a, b in zip(some, others, strict=True))
    return found if math.isfinite(found) else math.inf


# -- attention ----------------------------------------------------------------------------------------------------


def attention(place: Place) -> str:
    """Packed log-probs of every implementation that runs here, against transformers in float32 one by one."""
    place.gpus()
    model, sequences, device = place.model(), random_sequences(LENGTHS), rank_device(0)
    expected = _one_by_one(model, sequences, device)
    leaking = _one_by_one(model, [np.concatenate(sequences)], device)[0]
    ends = np.cumsum([len(s) for s in sequences])
    leaks = [leaking[end - len(s) : end - 1] for end, s in zip(ends, sequences, strict=True)]
    leak = largest_difference(leaks, expected)
    figures, wrong = [], []
    for asked, dtype in _ways(device):
        with one_rank(model, compute_dtype=dtype, attention=asked) as rank:
            off = largest_difference(rank.probe(sequences), expected)
        if leak < 2 * TOLERANCE[dtype]:
            raise Wrong(f"this check is blind: without borders log-probs move by {leak:.2g} nats only")
        figures.append(f"{asked} {dtype} off by {off:.1g}")
        wrong += [figures[-1]] if off > TOLERANCE[dtype] else []
    if wrong:
        raise Wrong(f"packed log-probs differ from those of one sequence at a time: {', '.join(wrong)} nats")
    chosen = choose_attention("auto", "bfloat16", device)
    return f"{_installed()}; auto takes {chosen}; {', '.join(figures)} nats (a leak: {leak:.2g})"


def _ways(device: torch.device) -> list[tuple[str, str]]:
    ways = [("sdpa", "float32"), ("sdpa", "bfloat16")]
    for name in ("varlen", "flash_attention_2"):
        with contextlib.suppress(ValueError):  # it cannot run here
            choose_attention(name, "bfloat16", device)
            ways.append((name, "bfloat16"))
    return ways


def _one_by_one(model: Path, sequences: Sequence[IntArray], device: torch.device) -> list[FloatArray]:
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="sdpa").to(device).eval()
    found = []
    with torch.inference_mode():
        for sequence in sequences:
            tokens = torch.from_numpy(sequence.astype(np.int64)).to(device)
            logprobs = torch.log_softmax(lm(tokens[None]).logits[0, :-1].float(), -1)
            found.append(logprobs.gather(1, tokens[1:, None])[:, 0].cpu().numpy())
    return found


def _installed() -> str:
    """Which of the packages that have attention kernels are there."""
    found = []
    for name in ("flash-attn", "kernels"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


# -- steps --------------------------------------------------------------------------------------------------------


def learner(place: Place) -> str:
    """RL steps in bfloat16 for speed and memory, and supervised ones that must lower the loss of what they train."""
    place.gpus()
    scratch, count, length = WORK[place.device]
    model = make_model(scratch, place.folder / "trained", length, seed=0)
    batch, micro_batch_tokens = _batch(count, length), count * length // 4
    with one_rank(model, compute_dtype="bfloat16", micro_batch_tokens=micro_batch_tokens) as rank:
        rank.begin_phase(None, OptimConfig(lr=1e-3), 100)
        rank.step(batch, "rl")  # kernels are loaded, memory is asked for
        metrics = rank.step(batch, "rl")
        before = rank.nll(batch)
        skipped = [rank.step(batch, "sft")["skipped"] for _ in range(4)]
        after = rank.nll(batch)
    if metrics["skipped"] or any(skipped):
        raise Wrong("a loss or a gradient was not finite")
    if not after < before:
        raise Wrong(f"four steps on the same answers left their loss at {after:.4g} nats, it was {before:.4g}")
    speed = f"{metrics['learner_tokens_per_s']:,.0f} tokens/s" + (
        f", MFU {metrics['mfu']:.0%}" if "mfu" in metrics else ""
    )
    return f"{speed}; loss {before:.3g} to {after:.3g}; {_memory(place, scratch, micro_batch_tokens, metrics)}"


def _batch(count: int, length: int) -> TrainingBatch:
    """Answers of random bytes in groups of four, of which every other one is right."""
    mask = np.tile(np.arange(length) >= _PROMPT, count)
    return TrainingBatch(
        token_ids=np.concatenate(random_sequences([length] * count)),
        loss_mask=mask,
        behaviour_logprobs=np.where(mask, -math.log(260), 0).astype(np.float32),
        versions=np.where(mask, 0, -1).astype(np.int32),
        lengths=np.full(count, length, np.int32),
        rewards=(np.arange(count) % 2).astype(np.float32),
        group_ids=(np.arange(count) // 4).astype(np.int32),
        version=0,
    )


def _memory(place: Place, scratch: ScratchConfig, micro_batch_tokens: int, metrics: dict[str, float]) -> str:
    if place.device == "cpu":
        return "memory: the formula is for GPUs"
    from cluster.model_files import scratch_facts

    shape: Shape = scratch_facts(scratch, 260, CONTEXT_LENGTH).shape
    formula, peak = rank_memory(shape, 1, micro_batch_tokens).total / GIB, metrics["learner_memory_gib"]
    if peak > _LEEWAY * formula:
        raise Wrong(f"a rank took {peak:.1f} GiB, the formula of `rloop plan` says {formula:.1f}")
    return f"{peak:.1f} GiB at the peak, by formula {formula:.1f}"
