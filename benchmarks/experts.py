"""How fast an expert set is chosen from a journal on a real disk, and what memory that takes.

    .venv/bin/python benchmarks/experts.py [--rollouts 1000000] [--json FILE] [--quick] [--dir FOLDER]

A journal is written by its own writer: groups of 16 short answers of a phase of 100 steps, ten groups per problem, a
third of the answers correct. Half of it is compacted to Parquet, as the phases before are in a run. Then one process
chooses from all of it and writes the expert set; a thread beside looks at its memory every few milliseconds, and how
long it had to wait for that.
"""

import asyncio
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
from report import Row, arguments, report

from rollout.events import Finished, Leased, PhaseBegun
from rollout.expert_report import ExpertReport
from rollout.expert_rule import ExpertRule
from rollout.experts import select_experts
from rollout.journal import Journal
from rollout.payloads import SCHEMA, to_batch
from rollout.records import GroupKey, Prompt, Rollout, RolloutGroup, Segment
from rollout.storage import LocalDisk
from verifiers.records import Verdict

GROUP = 16
TOKENS = 32
"""Of an answer, on average."""
STEPS = 100
GROUPS_PER_PROBLEM = 10
RULE = ExpertRule(tau_hard=0.9, max_per_prompt=16, seed=0)
SYNC_EVERY = 2000
"""Groups."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What choosing took."""

    chosen: ExpertReport
    seconds: float
    cpu_seconds: float
    resident: int
    """Bytes at the highest, above those before."""
    anonymous: int
    """The same without pages of mapped files, which the kernel takes back when it needs them."""
    longest_wait_s: float
    """Of another thread of the process."""


def answer_pool(count: int) -> list[pa.RecordBatch]:
    """Groups of random answers that are used again and again, under other names."""
    rng = np.random.default_rng(0)
    prompt_ids = np.arange(16, dtype=np.int32)

    def rollout(index: int) -> Rollout:
        length = int(rng.integers(TOKENS // 2, TOKENS * 3 // 2))
        segment = Segment(
            rng.integers(0, 150_000, length).astype(np.int32),
            -rng.random(length, np.float32),
            np.zeros(length, np.int32),
            "stop",
        )
        right = bool(rng.random() < 1 / 3)
        verdict = Verdict(float(right), "correct" if right else "wrong", "exact", "1")
        return Rollout("", index, prompt_ids, segment, np.ones(length, np.bool_), verdict, "finished")

    prompt = Prompt("", "", (), "")
    return [
        to_batch(RolloutGroup(GroupKey("train", 0, ""), prompt, tuple(rollout(i) for i in range(GROUP))), 0, 0)
        for _ in range(count)
    ]


def renamed(batch: pa.RecordBatch, key: GroupKey, step: int) -> pa.RecordBatch:
    """The same answers as those of another group."""
    for name, value in (("epoch", key.epoch), ("prompt_id", key.prompt_id), ("step", step)):
        field = SCHEMA.field(name)
        batch = batch.set_column(SCHEMA.get_field_index(name), field, pa.array([value] * GROUP, field.type))
    return batch


async def write(folder: Path, groups: int) -> None:
    """A journal of one phase, the first half of it compacted."""
    pool = answer_pool(1024)
    picks = np.random.default_rng(1).integers(0, len(pool), groups).tolist()
    problems = -(-groups // GROUPS_PER_PROBLEM)
    journal = Journal(LocalDisk(folder), "data")
    journal.post(PhaseBegun("rl", 0, 0, STEPS))
    for number, pick in enumerate(picks):
        key, step = GroupKey("train", number // problems, f"problem/{number % problems}"), number * STEPS // groups
        ref = journal.add(renamed(pool[pick], key, step))
        journal.post(Leased(key, "w", 0))
        journal.post(Finished(key, "w", 0, ref, 0, 0, "buffered"))
        if number % SYNC_EVERY == 0:
            await journal.sync()
        if number == groups // 2:
            await journal.compact()
    await journal.close()


class Watch:
    """Memory of this process while it is open, and how long its thread had to wait for its turn."""

    EVERY_S = 0.005

    def __enter__(self) -> "Watch":
        self._done = threading.Event()
        self.longest_wait_s = 0.0
        self._before = self._peak = np.array(resident())
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def growth(self) -> tuple[int, int]:
        """(resident, anonymous) bytes at the highest, above those at the start."""
        all_of_it, anonymous = (self._peak - self._before).tolist()
        return all_of_it, anonymous

    def _look(self) -> None:
        began = time.perf_counter()
        while not self._done.wait(self.EVERY_S):
            self._peak = np.maximum(self._peak, resident())
            now = time.perf_counter()
            self.longest_wait_s = max(self.longest_wait_s, now - began - self.EVERY_S)
            began = now


def resident() -> tuple[int, int]:
    """Bytes of this process in memory: (all, without mapped files)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    all_of_it, anonymous = (int(lines[name].split()[0]) << 10 for name in ("VmRSS", "RssAnon"))
    return all_of_it, anonymous


def choose(folder: Path, out: Path) -> Measured:
    """In a process of its own, so that the writer's memory is not in the figures."""
    began, cpu_began = time.perf_counter(), time.process_time()
    with Watch() as watch:
        chosen = select_experts(LocalDisk(folder), 0, RULE, out)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    return Measured(chosen, seconds, cpu_seconds, *watch.growth, watch.longest_wait_s)


def measure(folder: Path, rollouts: int) -> list[Row]:
    """All rows of the table."""
    journal, out, groups = folder / "journal", folder / "experts.parquet", rollouts // GROUP
    began = time.perf_counter()
    asyncio.run(write(journal, groups))
    write_s = time.perf_counter() - began
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        found = process.submit(choose, journal, out).result()
    num_bytes = sum(path.stat().st_size for path in journal.iterdir())
    return [
        Row("choose and write the expert set", rollouts / found.seconds, "rollouts/s"),
        Row("seconds it takes", found.seconds, "s", better="lower"),
        Row("CPU time per rollout", found.cpu_seconds / rollouts * 1e6, "µs", better="lower"),
        Row("memory at its peak, above that before", found.resident / 2**20, "MiB", better="lower"),
        Row("of it not pages of mapped files", found.anonymous / 2**20, "MiB", better="lower"),
        Row("the same per correct rollout", found.anonymous / found.chosen.correct, "bytes", better="lower"),
        Row("longest wait of another thread", found.longest_wait_s * 1e3, "ms", better="lower"),
        Row("correct rollouts", found.chosen.correct, "rollouts"),
        Row("kept", found.chosen.kept, "rollouts"),
        Row("expert set on the disk", out.stat().st_size / 2**20, "MiB", better="lower"),
        Row("journal on the disk", num_bytes / 2**20, "MiB", better="lower"),
        Row("write that journal", rollouts / write_s, "rollouts/s"),
    ]


def main() -> None:
    """Measure and report."""
    parser = arguments("Choosing an expert set from a large journal.")
    parser.add_argument("--rollouts", type=int, default=1_000_000, metavar="N", help="in the journal")
    parser.add_argument("--dir", type=Path, help="where the journal is written: a folder on the disk to measure")
    options = parser.parse_args()
    rollouts = 100_000 if options.quick else options.rollouts
    with tempfile.TemporaryDirectory(prefix="rloop-experts-", dir=options.dir) as folder:
        rows = measure(Path(folder), rollouts)
    report(f"Expert set of {rollouts:,} rollouts of {TOKENS} tokens, groups of {GROUP}", rows, options.json)


if __name__ == "__main__":
    main()
