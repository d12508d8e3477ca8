"""How fast the rollout buffer takes in, keeps and hands out rollouts, on one core, with a journal on a real disk.

    .venv/bin/python benchmarks/buffer.py [--json FILE] [--quick] [--dir FOLDER]

Fake workers lease groups and deliver ready-made answers (no engine, no scoring); a fake controller takes batches and
says that they were trained. Every delivery returns only when it is durable. Beside it, in the same run: what the disk
does with the same bytes, appended and fdatasync'd, one group or one training step at a time.
"""

import asyncio
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
from report import Row, arguments, report

from actors.buffer import RolloutBuffer
from rollout.config import RolloutConfig
from rollout.events import LOG_NAME
from rollout.records import Lease, Prompt, Rollout, RolloutGroup, Segment
from rollout.storage import LocalDisk
from verifiers.records import Verdict

TOKENS = 512
"""Per rollout."""
PROMPT_TOKENS = 64
WORKERS = 8
WORKER_GROUPS = 16
"""Groups that a fake worker delivers at the same time."""
CONFIG = RolloutConfig(group_size=8, groups_per_step=64, max_staleness=2, max_concurrent=WORKER_GROUPS)
PROMPTS = [Prompt(f"p{i}", f"problem {i}", tuple(range(PROMPT_TOKENS)), str(i)) for i in range(1000)]
PATIENCE_S = 60.0
AIM = 2000.0
"""Rollouts per second (issue 3)."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run through the buffer took."""

    seconds: float
    cpu_seconds: float
    growth_bytes: float
    """Resident memory at the end, less that after a fifth of the steps, per rollout in between."""


def answer_pool(count: int) -> list[tuple[Rollout, ...]]:
    """Groups of random answers to hand out again and again; in each, half of the siblings are right."""
    rng = np.random.default_rng(0)
    prompt_ids, mask = np.arange(PROMPT_TOKENS, dtype=np.int32), np.ones(TOKENS, np.bool_)

    def rollout(index: int) -> Rollout:
        token_ids = rng.integers(0, 150_000, TOKENS).astype(np.int32)
        logprobs = -rng.random(TOKENS, np.float32)
        segment = Segment(token_ids, logprobs, np.zeros(TOKENS, np.int32), "stop")
        right = index % 2 == 0
        verdict = Verdict(float(right), "correct" if right else "wrong", "exact", "1", {"format": 1.0})
        return Rollout("", index, prompt_ids, segment, mask, verdict, "finished")

    return [tuple(rollout(i) for i in range(CONFIG.group_size)) for _ in range(count)]


def answered(lease: Lease, rollouts: tuple[Rollout, ...], version: int) -> RolloutGroup:
    """What a worker would deliver for this lease."""
    versions = np.full(TOKENS, version, np.int32)
    return RolloutGroup(
        lease.key,
        lease.prompt,
        tuple(replace(r, prompt_id=lease.prompt.id, response=replace(r.response, versions=versions)) for r in rollouts),
    )


async def run(buffer: RolloutBuffer, steps: int) -> Measured:
    """`steps` training steps through the buffer, with all workers at once."""
    pool = answer_pool(32)
    version, done = 0, False

    async def worker(name: str) -> None:
        while not done:
            leases = await buffer.lease(name, 10**9, WORKER_GROUPS, 0.05)
            groups = [answered(lease, pool[i % len(pool)], version) for i, lease in enumerate(leases)]
            assert all(
                await asyncio.gather(
                    *(buffer.finish(name, lease.attempt, g) for lease, g in zip(leases, groups, strict=True))
                )
            )

    await buffer.begin_rl(iteration=0, steps=steps, version=0)
    workers = [asyncio.create_task(worker(f"w{i}")) for i in range(WORKERS)]
    early = steps // 5
    began, cpu_began, early_rss = time.perf_counter(), time.process_time(), 0
    for step in range(steps):
        info, _ = await buffer.next_batch(PATIENCE_S)
        version = step + 1
        await buffer.trained(info.groups, version)
        await buffer.new_version(version)
        if version == early:
            early_rss = psutil.Process().memory_info().rss
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    growth = psutil.Process().memory_info().rss - early_rss
    done = True
    await asyncio.gather(*workers)
    return Measured(seconds, cpu_seconds, growth / ((steps - early) * rollouts_per_step()))


def rollouts_per_step() -> int:
    """Rollouts that make one training step."""
    return CONFIG.groups_per_step * CONFIG.group_size


def raw_append_s(path: Path, total_bytes: int, appends: int) -> float:
    """Seconds to append `total_bytes` to a file in equal pieces, each fdatasync'd before the next."""
    piece = os.urandom(total_bytes // appends)
    with path.open("xb", buffering=0) as file:
        began = time.perf_counter()
        for _ in range(appends):
            file.write(piece)
            os.fdatasync(file.fileno())
        return time.perf_counter() - began


def measure(folder: Path, steps: int) -> list[Row]:
    """All rows of the table."""
    journal = LocalDisk(folder / "journal")
    rollouts = steps * rollouts_per_step()

    def open_buffer() -> RolloutBuffer:
        return RolloutBuffer(journal, PROMPTS, [], CONFIG, seed=0, lease_timeout_s=PATIENCE_S)

    async def through() -> tuple[Measured, int, float]:
        buffer = open_buffer()
        try:
            measured = await run(buffer, steps)
            payload_bytes = sum(journal.size(name) for name in journal.names() if name.startswith("segment-"))
            began = time.perf_counter()
            await buffer.end_phase()
            return measured, payload_bytes, time.perf_counter() - began
        finally:
            await buffer.close()

    async def reopen_s() -> float:
        began = time.perf_counter()
        buffer = open_buffer()
        seconds = time.perf_counter() - began
        await buffer.close()
        return seconds

    measured, payload_bytes, end_s = asyncio.run(through())
    log_bytes = journal.size(LOG_NAME)
    reopened = asyncio.run(reopen_s())
    written = payload_bytes + log_bytes
    per_group = rollouts / raw_append_s(folder / "raw-groups", written, rollouts // CONFIG.group_size)
    per_step = rollouts / raw_append_s(folder / "raw-steps", written, steps)
    rate = rollouts / measured.seconds
    return [
        Row("lease → finish → batch → trained", rate, "rollouts/s", AIM),
        Row("CPU time per rollout", measured.cpu_seconds / rollouts * 1e6, "µs", better="lower"),
        Row("raw fdatasync'd appends of the same bytes, one per group", per_group, "rollouts/s"),
        Row("raw fdatasync'd appends of the same bytes, one per step", per_step, "rollouts/s"),
        Row("buffer / raw appends per group", rate / per_group, "ratio"),
        Row("buffer / raw appends per step", rate / per_step, "ratio"),
        Row("memory growth per 100k rollouts", measured.growth_bytes * 100_000 / 2**20, "MiB", better="lower"),
        Row("journal payload per rollout", payload_bytes / rollouts, "bytes", better="lower"),
        Row("end of the phase: compaction of its payload", payload_bytes / end_s / 1e6, "MB/s"),
        Row("journal events per rollout", log_bytes / rollouts, "bytes", better="lower"),
        Row(f"reopen a journal of {rollouts:,} rollouts", reopened, "s", better="lower"),
    ]


def main() -> None:
    """Measure on one core and report."""
    parser = arguments("Throughput of the rollout buffer and its journal.")
    parser.add_argument("--dir", type=Path, help="where the journal is written: a folder on the disk to measure")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    steps = 40 if options.quick else 200
    with tempfile.TemporaryDirectory(prefix="rloop-buffer-", dir=options.dir) as folder:
        rows = measure(Path(folder), steps)
    title = (
        f"Rollout buffer: {steps * rollouts_per_step():,} rollouts of {TOKENS} tokens, groups of {CONFIG.group_size}"
    )
    report(f"{title}, one core", rows, options.json)


if __name__ == "__main__":
    main()
