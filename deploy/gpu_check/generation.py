"""Parts with the engine: its start, its speed, its log-probs beside the learner's, and new weights on their way in."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np
import torch

from cluster.casting import open_group
from deploy.gpu_check.place import CONTEXT_LENGTH, TOLERANCE, Place, Skipped, Wrong
from deploy.gpu_check.training import largest_difference, one_rank, random_sequences
from rollout.config import EngineConfig
from rollout.memory_file import MemoryFile
from rollout.records import GenerationRequest, IntArray, Segment
from rollout.transports import Transport
from rollout.weights import WeightLayout, WeightSlot
from trainer.learner import LearnerRank

ANSWERS, LONGEST = 64, 128
PROBE = random_sequences((48, 48, 48, 48))
_CHANGE = 0.1  # standard deviation of the factor that each row of the weights is multiplied by


def engine(place: Place) -> str:
    """A batch of answers; the learner must find its tokens, and a probe, as likely as the engine does."""
    place.gpus()
    return asyncio.run(_engine(place))


def transfer(place: Place) -> str:
    """Two versions through shared memory, both processes on one device; each must arrive."""
    place.gpus()
    return asyncio.run(_transfer(place, "shared_memory"))


def nccl(place: Place) -> str:
    """Two versions from one GPU to another, over NCCL."""
    if place.device == "cpu":
        raise Skipped("NCCL connects GPUs")
    if place.gpus() < 2:
        raise Skipped("NCCL needs a GPU for each of its processes, and there is one")
    return asyncio.run(_transfer(place, "nccl"))


def ipc(place: Place) -> str:
    """Two versions by CUDA-IPC, learner and engine on one GPU."""
    if place.device == "cpu":
        raise Skipped("CUDA-IPC hands over memory of a GPU")
    place.gpus()
    return asyncio.run(_transfer(place, "ipc"))


@asynccontextmanager
async def _running(place: Place, transport: Transport = "shared_memory", gpu: int = 0) -> AsyncIterator[Any]:
    """An engine with a KV cache of a fixed size, so that the learner has room on the same GPU."""
    from vllm.platforms import current_platform

    from rollout.vllm_engine import VllmEngine

    on_cpu = place.device == "cpu"
    if on_cpu and not current_platform.is_cpu():
        raise Skipped("vLLM was not built for CPUs here; requirements/cpu.txt has that build")
    config = EngineConfig(dtype=place.dtype, kv_cache_mb=256, max_num_seqs=ANSWERS, eager=on_cpu)
    with _visible(None if on_cpu else gpu):
        made = VllmEngine(str(place.model()), config, CONTEXT_LENGTH, 0, transport, transfer_timeout_s=120)
    try:
        yield made
    finally:
        await made.close()


@contextmanager
def _visible(gpu: int | None) -> Iterator[None]:
    """What is spawned meanwhile sees one GPU; this process has chosen its own before."""
    if gpu is None:
        yield
        return
    torch.cuda.init()
    mine = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = mine.split(",")[gpu] if mine else str(gpu)
    try:
        yield
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        if mine is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = mine


async def _answer(engine: Any, number: int, prompt: IntArray, longest: int) -> Segment:
    request = GenerationRequest(f"answer-{number}", prompt, longest, 1.0, seed=number)
    return Segment.concatenate([piece async for piece in engine.generate(request)])


async def _engine(place: Place) -> str:
    began = time.monotonic()
    async with _running(place) as made:
        await _answer(made, 0, PROBE[0], 2)
        started_s, began = time.monotonic() - began, time.monotonic()
        prompts = random_sequences([32] * ANSWERS)
        answers = await asyncio.gather(*(_answer(made, n, prompt, LONGEST) for n, prompt in enumerate(prompts, 1)))
        speed = sum(len(one.token_ids) for one in answers) / (time.monotonic() - began)
        probed = await made.logprobs(PROBE)
        with one_rank(place.model(), compute_dtype=place.dtype) as rank:
            whole = [np.concatenate([p, a.token_ids]) for p, a in zip(prompts, answers, strict=True)]
            sampled = [logprobs[len(p) - 1 :] for logprobs, p in zip(rank.probe(whole), prompts, strict=True)]
            off = largest_difference([a.logprobs for a in answers], sampled)
            probe_off = largest_difference(probed, rank.probe(PROBE))
    figure = (
        f"started in {started_s:.0f} s, {speed:,.0f} tokens/s of {ANSWERS} answers; off from the learner by {off:.1g} "
        f"nats on its answers, {probe_off:.1g} on the probe"
    )
    if max(off, probe_off) > TOLERANCE[place.dtype]:
        raise Wrong(f"{figure}; at most {TOLERANCE[place.dtype]:g} is due in {place.dtype}")
    return figure


async def _transfer(place: Place, transport: Transport) -> str:
    apart, dtype = transport == "nccl", place.dtype
    options = {"weight_transport": transport, "publish_dtype": dtype, "open_group": open_group if apart else None}
    async with _running(place, transport, gpu=int(apart)) as made:
        with one_rank(place.model(), compute_dtype=dtype, **options) as rank:
            layout, took_ms, off, moved = rank.layout(), [], 0.0, np.inf
            files = [MemoryFile(f"rloop-check-{side}", layout.nbytes) for side in "ab"]
            before = rank.probe(PROBE)
            for version in (1, 2):
                _change(rank, version)
                expected = rank.probe(PROBE)
                began = time.monotonic()
                slot = _slot(layout, files, version)
                rank.stage(slot)
                await made.load_weights(slot)
                took_ms.append(1e3 * (time.monotonic() - began))
                off = max(off, largest_difference(await made.logprobs(PROBE), expected))
                moved, before = min(moved, largest_difference(expected, before)), expected
    figure = (
        f"{layout.nbytes / 1e6:.0f} MB in {min(took_ms):.0f} ms; the engine's probe is off by {off:.1g} nats from the "
        f"learner's, which each version moved by {moved:.2g}"
    )
    if moved < 2 * TOLERANCE[dtype]:
        raise Wrong(f"this check is blind: {figure}")
    if off > TOLERANCE[dtype]:
        raise Wrong(f"{figure}; at most {TOLERANCE[dtype]:g} is due in {dtype}")
    return figure


def _change(rank: LearnerRank, seed: int) -> None:
    """Move all weights by far more than the tolerance."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for shard in rank.policy.shards().values():
            per_row = torch.randn(len(shard), *[1] * (shard.ndim - 1), device=shard.device)
            shard.mul_(1 + _CHANGE * per_row)


def _slot(layout: WeightLayout, files: list[MemoryFile], version: int) -> WeightSlot:
    side = version % 2
    return WeightSlot("" if layout.sources else files[side].path, layout, version, side)
