"""How fast the learner trains: against a bare PyTorch loop, packed against padded, two ranks against one, chunked
against full log-probs.

    .venv/bin/python benchmarks/learner.py [--json FILE] [--quick]

Random models and batches, one torch thread per process. What is compared takes turns in rounds of the same run, and the
median of the rounds' ratios counts. On a busy CPU the ratios in CPU seconds are the sturdy ones.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from bare_loop import BareLoop, packed, padded
from head_run import HeadRun, run_head
from one_thread import PATIENCE_S, Took, own_process, timed
from rank_processes import RankProcesses
from report import Row, arguments, report
from workloads import DEMO, LONG_TAILED, MIDDLE, Workload, linear_cost, make_batch, make_model

from rollout.records import TrainingBatch
from trainer.attention import choose_attention
from trainer.batching import micro_batches
from trainer.config import OptimConfig, RLConfig, TrainerConfig
from trainer.learner import LearnerRank
from trainer.objectives import rl_objective
from trainer.packing import plan_micro_batches
from trainer.rendezvous import free_port, rank_device

AIM = 0.95
"""Tokens/s of our train step over those of the bare loop."""
DEVICE = rank_device(0)
COMPUTE_DTYPE = "bfloat16" if DEVICE.type == "cuda" else "float32"
ATTENTION = choose_attention("auto", COMPUTE_DTYPE, DEVICE)
OPTIM = OptimConfig()
ROOM_FOR_TWO = DEVICE.type == "cpu" or torch.cuda.device_count() > 1
"""Each rank has a GPU of its own."""
LAPS = ("evaluate_s", "forward_backward_s", "optimizer_s")
VOCABULARY, HIDDEN_SIZE = 151_936, 1024
"""Of Qwen3-0.6B."""
MANY_RANKS = 8

Rounds = dict[str, list[Took]]
"""By what was measured, one per round."""


def trainer_config(workload: Workload) -> TrainerConfig:
    return TrainerConfig(compute_dtype=COMPUTE_DTYPE, micro_batch_tokens=workload.micro_batch_tokens)


class Ours:
    """The shipped learner, one rank in this process."""

    def __init__(self, workload: Workload, model_dir: Path) -> None:
        self._rank = LearnerRank(0, 1, model_dir, trainer_config(workload))
        self._rank.connect("127.0.0.1", free_port(), PATIENCE_S)
        self._rank.begin_phase(None, OPTIM, 1000)
        self.metrics: list[dict[str, float]] = []

    def step(self, batch: TrainingBatch) -> None:
        self.metrics.append(self._rank.step(batch, "rl"))

    def close(self) -> None:
        self._rank.close()


def in_turns(sides: Mapping[str, Callable[[], Took]], rounds: int) -> Rounds:
    """Each side once per round, the order reversed from round to round; a first round does not count."""
    took: Rounds = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name in sides if turn % 2 else reversed(list(sides)):
            seconds = sides[name]()
            if turn:
                took[name].append(seconds)
    return took


def speed_up(slow: Sequence[Took], fast: Sequence[Took], clock: str) -> float:
    """Median over the rounds."""
    return median(getattr(s, clock) / getattr(f, clock) for s, f in zip(slow, fast, strict=True))


def ratio_rows(name: str, slow: Sequence[Took], fast: Sequence[Took], aim: float | None = None) -> list[Row]:
    """How much faster `fast` is in CPU seconds (to which the aim applies) and by the wall clock; on GPUs only that."""
    wall = Row(f"{name}, wall clock", speed_up(slow, fast, "wall"), "ratio", aim if DEVICE.type == "cuda" else None)
    if DEVICE.type == "cuda":
        return [wall]
    return [Row(f"{name}, CPU seconds", speed_up(slow, fast, "cpu"), "ratio", aim), wall]


def rates(name: str, tokens: int, took: Sequence[Took]) -> Row:
    clock = "wall" if DEVICE.type == "cuda" else "cpu"
    unit = "tokens/s" if clock == "wall" else "tokens/CPU s"
    return Row(name, tokens / median(getattr(t, clock) for t in took), unit)


def advantages(batch: TrainingBatch, longest: int) -> np.ndarray:
    return rl_objective(RLConfig(), longest).advantages(batch, None, None).tokens


def against_bare(workload: Workload, folder: Path, sequences: int, rounds: int, aim: float | None) -> list[Row]:
    """Our train step, plan and statistics included, against the bare loop over the same micro-batches."""
    model_dir, batch = make_model(workload, folder), make_batch(workload, sequences)
    shares = micro_batches(batch, 0, 1, workload.micro_batch_tokens, linear_cost(workload))
    values = advantages(batch, workload.longest_response)
    micros = [packed(micro.to(DEVICE), batch, values, ATTENTION) for micro in shares]
    bare, ours = BareLoop(model_dir, ATTENTION, OPTIM.lr, DEVICE), Ours(workload, model_dir)
    try:
        took = in_turns(
            {"ours": lambda: timed(lambda: ours.step(batch)), "bare": lambda: timed(lambda: bare.step(micros))}, rounds
        )
    finally:
        ours.close()
    laps = {lap: median(metrics[lap] for metrics in ours.metrics[1:]) for lap in LAPS}
    tokens, name = len(batch.token_ids), workload.name
    return [
        Row(f"{name}: tokens of a step", tokens, "tokens"),
        rates(f"{name}: train step", tokens, took["ours"]),
        rates(f"{name}: bare loop", tokens, took["bare"]),
        *ratio_rows(f"{name}: train step / bare loop", took["bare"], took["ours"], aim),
        *(Row(f"{name}: share of {lap[:-2]}", 100 * laps[lap] / sum(laps.values()), "%") for lap in LAPS),
        *(Row(f"{name}: MFU", 100 * metrics["mfu"], "%") for metrics in ours.metrics[-1:] if "mfu" in metrics),
    ]


def packed_against_padded(folder: Path, sequences: int, rounds: int) -> list[Row]:
    """Our train step against the bare loop over padded rows, in random order and with like lengths together."""
    workload = LONG_TAILED
    model_dir, batch = make_model(workload, folder), make_batch(workload, sequences)
    values = advantages(batch, workload.longest_response)
    orders = {"random order": np.arange(sequences), "sorted by length": np.argsort(batch.lengths, kind="stable")}
    rows_of = {
        name: padded(batch, values, order, workload.micro_batch_tokens, DEVICE) for name, order in orders.items()
    }
    bare, ours = BareLoop(model_dir, "sdpa", OPTIM.lr, DEVICE), Ours(workload, model_dir)
    sides = {name: lambda micros=micros: timed(lambda: bare.step(micros)) for name, micros in rows_of.items()}
    try:
        took = in_turns({"packed": lambda: timed(lambda: ours.step(batch)), **sides}, rounds)
    finally:
        ours.close()
    tokens, name = len(batch.token_ids), workload.name
    found = [rates(f"{name}: packed, real tokens", tokens, took["packed"])]
    for order, micros in rows_of.items():
        cells = sum(micro.arguments["input_ids"].numel() for micro in micros)
        found += [
            Row(f"{name}: padded, {order}: padding", 100 * (1 - tokens / cells), "%"),
            *ratio_rows(f"{name}: packed / padded, {order}", took[order], took["packed"]),
        ]
    return found


def two_ranks(folder: Path, sequences: int, rounds: int) -> list[Row]:
    """Two ranks of one thread against one, and what the plan says of waiting."""
    workload = MIDDLE
    model_dir, batch = make_model(workload, folder), make_batch(workload, sequences)
    learners = [RankProcesses(world, model_dir, trainer_config(workload)) for world in (1, 2)]
    try:
        sides = {f"{i + 1}": lambda learner=learner: learner.step(batch) for i, learner in enumerate(learners)}
        took = in_turns(sides, rounds)
    finally:
        for learner in learners:
            learner.close()
    tail = make_batch(LONG_TAILED, 64 * MANY_RANKS)
    name = f"{workload.name}: 2 ranks / 1 rank"
    return [
        Row(f"{name}, wall clock", speed_up(took["1"], took["2"], "wall"), "ratio"),
        Row(f"{name}, CPU seconds of the busier rank", speed_up(took["1"], took["2"], "cpu"), "ratio"),
        Row("2 ranks wait, by the plan", waiting(batch, workload, 2), "%"),
        Row(f"{MANY_RANKS} ranks wait, by the plan, long-tailed", waiting(tail, LONG_TAILED, MANY_RANKS), "%"),
    ]


def waiting(batch: TrainingBatch, workload: Workload, ranks: int) -> float:
    """Percentage of the ranks' time in which they wait for the slowest of each turn, if costs are times."""
    longest = linear_cost(workload)
    plan = plan_micro_batches(batch.lengths, ranks, workload.micro_batch_tokens, longest)
    costs_S = batch.lengths * (1 + batch.lengths / longest)
    costs = np.array([[costs_S[members].sum() for members in micros] for micros in plan])
    return 100 * float(1 - costs.mean() / costs.max(0).mean())


def chunked_against_full(tokens: int) -> list[Row]:
    """Log-probs at a large vocabulary, forward and backward; the full way has no entropies."""
    runs: dict[bool, HeadRun] = {}
    for chunked in (False, True):
        with own_process() as process:
            runs[chunked] = process.submit(run_head, chunked, tokens, HIDDEN_SIZE, VOCABULARY).result(PATIENCE_S)
    full, ours = runs[False], runs[True]
    name = f"log-probs, vocabulary {VOCABULARY:,}"
    return [
        Row(f"{name}, {tokens:,} tokens: full", full.took.cpu, "CPU s"),
        Row(f"{name}, {tokens:,} tokens: chunked", ours.took.cpu, "CPU s"),
        Row(f"{name}: chunked / full, time", ours.took.cpu / full.took.cpu, "ratio", better="lower"),
        Row(f"{name}: full, peak memory", full.mib, "MiB", better="lower"),
        Row(f"{name}: chunked, peak memory", ours.mib, "MiB", better="lower"),
        Row(f"{name}: of it the head's gradient", VOCABULARY * HIDDEN_SIZE * 4 / 2**20, "MiB", better="lower"),
    ]


def main() -> None:
    """Measure each in turn and report."""
    options = arguments("Speed of the train step.").parse_args()
    quick = options.quick
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="rloop-learner-") as name:
        folder, rounds = Path(name), 2 if quick else 5
        found = [
            *against_bare(MIDDLE, folder, 8 if quick else 32, rounds, AIM),
            *against_bare(DEMO, folder, 64 if quick else 256, 2 * rounds, None),
            *packed_against_padded(folder, 16 if quick else 64, 1 if quick else 3),
            *(two_ranks(folder, 8 if quick else 32, 1 if quick else 3) if ROOM_FOR_TWO else []),
            *chunked_against_full(256 if quick else 2048),
        ]
    report(
        f"Learner: {DEVICE.type}, {COMPUTE_DTYPE}, {ATTENTION}, one thread per process, medians", found, options.json
    )


if __name__ == "__main__":
    main()
