"""How long a new policy version takes from the learner to the engine, and how long generation stands still for it.

    .venv/bin/python benchmarks/weight_sync.py [--json FILE] [--quick] [--large]

A learner of one rank and the real engine, with random Qwen3 models of about 1 MB, 100 MB and (--large) 1 GB of float32
weights: over shared memory and over TCP, with matrices packed for oneDNN and plain. Every version differs from the
last, checksums are compared, and each is attested: a run whose probe disagrees fails. Beside it, in the same rounds: a
memcpy of the same bytes.
"""

import asyncio
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from report import Row, arguments, report

from rollout.config import EngineConfig
from rollout.engine_env import ENGINE_ENV

os.environ.update(ENGINE_ENV)  # before anything imports torch or vllm

SIZES: dict[str, dict[str, int]] = {
    "1 MB": {"hidden_size": 64, "num_layers": 4, "head_dim": 32, "intermediate_size": 192},
    "100 MB": {"hidden_size": 512, "num_layers": 8, "num_heads": 8, "num_kv_heads": 4, "head_dim": 64}
    | {"intermediate_size": 1536},
    "1 GB": {"hidden_size": 1536, "num_layers": 9, "num_heads": 12, "num_kv_heads": 4, "head_dim": 128}
    | {"intermediate_size": 4608},
}
AIM = 3.0
"""Publish time over memcpy time, for plain matrices over shared memory."""
CONTEXT_LENGTH = 256
PROMPT = np.arange(40, 72, dtype=np.int32)
PROBE = [np.random.default_rng(i).integers(10, 250, 32).astype(np.int32) for i in range(2)]
TOLERANCE = 1e-3
WARM_UPS = 2
"""Rounds that do not count: each of the two shared files is touched once."""
QUIET_TOKENS = 24
"""Tokens of the stream before and after an update."""
STEPS = ("collective_rpc", "start_weight_update", "update_weights", "finish_weight_update")
"""Calls that `load_weights` makes of vLLM's client; the first reads the checksums, then it pauses the scheduler."""

Times = dict[str, list[float]]
"""Milliseconds by name, one per round."""


class TimedCalls:
    """vLLM's client as it is, except that the awaited calls of an update leave their durations in `times`."""

    def __init__(self, client: Any, times: Times) -> None:
        self._client = client
        self._times = times

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name not in STEPS:
            return found

        async def timed(*args: Any, **kwargs: Any) -> Any:
            with stopwatch(self._times, name):
                return await found(*args, **kwargs)

        return timed


@contextmanager
def stopwatch(times: Times, name: str) -> Iterator[None]:
    """Append the milliseconds that the block takes."""
    began = time.perf_counter()
    yield
    times[name].append((time.perf_counter() - began) * 1e3)


class Learner:
    """One learner rank and the two shared files that its versions alternate between."""

    def __init__(self, model_dir: Path, transport: str) -> None:
        from rollout.memory_file import MemoryFile
        from trainer.config import TrainerConfig
        from trainer.learner import LearnerRank
        from trainer.rendezvous import free_port

        self.rank = LearnerRank(0, 1, model_dir, TrainerConfig(compute_dtype="float32"), weight_transport=transport)
        self.rank.connect("127.0.0.1", free_port(), timeout_s=60)
        self.layout = self.rank.layout()
        self._files = [MemoryFile(f"rloop-bench-{side}", self.layout.nbytes) for side in "ab"]
        self.version = 0
        eos = json.loads((model_dir / "config.json").read_text())["eos_token_id"]
        self.rank.policy.shards()["model.embed_tokens.weight"][eos] = 0.0  # never the greedy choice: streams go on

    def update(self) -> None:
        """Move all weights a little, as a training step would."""
        import torch

        self.version += 1
        with torch.no_grad():
            for shard in self.rank.policy.shards().values():
                per_row = torch.randn(len(shard), *[1] * (shard.ndim - 1))
                shard.mul_(1 + 0.05 * per_row)

    def stage(self) -> Any:
        """Write the weights into the file whose turn it is. Returns the `WeightSlot`."""
        from rollout.weights import WeightSlot

        side = self.version % 2
        slot = WeightSlot("" if self.layout.sources else self._files[side].path, self.layout, self.version, side)
        self.rank.stage(slot)
        return slot

    def close(self) -> None:
        """Leave the process group and free the files."""
        self.rank.close()
        for file in self._files:
            file.close()


async def publish(learner: Learner, engine: Any, times: Times, copy: Callable[[], None]) -> None:
    """One version from learner to engine, which is idle; then the attestation."""
    learner.update()
    expected = learner.rank.probe(PROBE)
    with stopwatch(times, "memcpy"):
        copy()
    with stopwatch(times, "publish"):
        with stopwatch(times, "stage"):
            slot = learner.stage()
        with stopwatch(times, "load"):
            await engine.load_weights(slot)
    with stopwatch(times, "attest"):
        found = await engine.logprobs(PROBE)
    diff = max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True))
    if not diff <= TOLERANCE:
        raise RuntimeError(f"the engine's probe differs from the learner's by {diff:.2g}, at most {TOLERANCE:g} is due")


async def pause_ms(learner: Learner, engine: Any) -> float:
    """How much longer a token of a running stream takes when an update falls into it.

    The largest gap between two pieces (one token each) around the update, less the median gap before it.
    """
    from rollout.records import GenerationRequest

    learner.update()
    slot = learner.stage()
    request = GenerationRequest(f"stream-{learner.version}", PROMPT, CONTEXT_LENGTH - len(PROMPT) - 1, 0.0, 0)
    times: list[float] = []
    loading: asyncio.Task[None] | None = None
    loaded_at: int | None = None
    async with aclosing(engine.generate(request)) as pieces:
        async for _ in pieces:
            times.append(time.perf_counter())
            if len(times) == QUIET_TOKENS:
                loading = asyncio.create_task(engine.load_weights(slot))
            if loading and loading.done() and loaded_at is None:
                loaded_at = len(times)
            if loaded_at and len(times) == loaded_at + QUIET_TOKENS:
                await engine.abort(request.id)
    if loading is None or loaded_at is None:
        raise RuntimeError(f"the stream ended after {len(times)} tokens, before the update was over")
    await loading
    gaps = np.diff(times) * 1e3
    return float(gaps[QUIET_TOKENS - 1 : loaded_at].max() - np.median(gaps[1 : QUIET_TOKENS - 1]))


async def measure(size: str, transport: str, packed: bool, folder: Path, rounds: int) -> list[Row]:
    """All rows for one size of model, one way to the engine and one way to hold matrices there."""
    from rollout import vllm_engine
    from trainer.config import ScratchConfig
    from trainer.scratch import make_model

    # One token per piece: a pause shows to within one token.
    vllm_engine.STREAM_INTERVAL = 1
    model_dir = folder / size
    if not model_dir.exists():
        make_model(ScratchConfig(tokenizer="bytes", **SIZES[size]), model_dir, CONTEXT_LENGTH, seed=0)
    config = EngineConfig(kv_cache_mb=32, max_num_seqs=8, packed_weights=packed)
    engine = vllm_engine.VllmEngine(str(model_dir), config, CONTEXT_LENGTH, 0)
    times: Times = defaultdict(list)
    engine._llm = TimedCalls(engine._llm, times)
    learner = Learner(model_dir, transport)
    source, target = np.ones(learner.layout.nbytes, np.uint8), np.zeros(learner.layout.nbytes, np.uint8)
    try:
        for _ in range(WARM_UPS + rounds):
            await publish(learner, engine, times, lambda: np.copyto(target, source))
        publish_times = {name: median(values[WARM_UPS:]) for name, values in times.items()}
        pause = median([await pause_ms(learner, engine) for _ in range(rounds)])
    finally:
        learner.close()
        await engine.close()
    aim = AIM if transport == "shared_memory" and not packed and size != "1 MB" else None
    name = f"{size}, {transport}, {'packed' if packed else 'plain'}"
    return rows(name, learner.layout.nbytes, publish_times, pause, aim)


def rows(name: str, nbytes: int, ms: dict[str, float], pause: float, aim: float | None) -> list[Row]:
    """The table's lines for one case."""

    def row(what: str, value: float, unit: str = "ms", aim: float | None = None) -> Row:
        return Row(f"{name}: {what}", value, unit, aim, "lower")

    return [
        Row(f"{name}: weights", nbytes / 1e6, "MB"),
        row("memcpy", ms["memcpy"]),
        row("publish (stage + load)", ms["publish"]),
        row("  stage", ms["stage"]),
        row("  load_weights", ms["load"]),
        row("    checksums in the engine", ms["collective_rpc"]),
        *(row(f"    {step}", ms[step]) for step in STEPS[1:]),
        row("    transfer, pause, resume", ms["load"] - sum(ms[step] for step in STEPS)),
        row("attest", ms["attest"]),
        row("pause of a request in flight", pause),
        row("publish / memcpy", ms["publish"] / ms["memcpy"], "ratio", aim),
        row("pause / memcpy", pause / ms["memcpy"], "ratio"),
    ]


def main() -> None:
    """Measure each size in turn and report."""
    parser = arguments("Publish time and engine pause of a weight update.")
    parser.add_argument("--large", action="store_true", help="measure 1 GB too")
    options = parser.parse_args()
    sizes = ["100 MB"] if options.quick else ["1 MB", "100 MB"]
    sizes += ["1 GB"] if options.large else []
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="rloop-weights-") as folder, asyncio.Runner() as runner:
        for size in sizes:
            for transport in ("shared_memory", "tcp"):
                for packed in (True, False):
                    rounds = 5 if options.quick else 11
                    found += runner.run(measure(size, transport, packed, Path(folder), rounds))
    report("Weight sync: one learner rank, one engine, float32, medians", found, options.json)


if __name__ == "__main__":
    main()
