"""Does RLoop help? Five schedules at equal RL steps and equally many sampled answers, on the tiny task.

    .venv/bin/python benchmarks/rloop_effect.py [--json FILE] [--quick] [--seeds 0,1,2,3,4] [--split validation]

Whole runs of `rloop train recipes/countdown.yaml`, seed after seed, in `runs/effect-test/`; an interrupted call goes on
where it was, and with `--results FILE` what was finished elsewhere is taken from there. Few training problems, each
visited twenty-five times: there plain RL over-fits. Dynamic sampling is off, so that every schedule answers the same
number of problems per step, and training waits for generation, so that a run does not depend on timing. Settings were
chosen with `--split validation` and then frozen.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from effect_results import Results
from effect_runs import METHODS, ROOT, Policy, Run, run_or_resume
from effect_statistics import Estimate, estimate, paired_p
from report import Row, arguments, report
from rich.console import Console
from rich.table import Table

SEEDS = (0, 1, 2, 3, 4)
QUICK_SEEDS = (0, 1)
SETTINGS = (
    "data.countdown.train_problems=100",
    "data.countdown.train_numbers=[3]",
    "data.countdown.eval_numbers=[3]",
    "data.countdown.eval_problems=80",
    "data.countdown.harder_problems=40",
    "data.countdown.other_form_problems=40",
    "rollout.max_staleness=0",
    "rollout.drop_zero_variance=false",
    "actors.rollout_workers=2",
    "actors.checkpoint_every_s=1000000",
    "trainer.rl.optim.lr=3.0e-4",
    "schedule.iterations=4",
    "schedule.rl_steps=40",
    "eval.overlap=false",
)
QUICK = ("schedule.iterations=2", "schedule.rl_steps=20", "eval.limit=32", "schedule.warmup_demos=25600")
SETS = {"in distribution": ("3 numbers",), "harder": ("harder",), "other form": ("other form",)}
"""As the tables call them → held-out sets of equal size."""
SCORES = ("pass@1", "pass@8", "pass@32")
AIMS = {"pass@1": 1.09, "pass@32": 1.15}
"""The paper's gains over plain RL, as ratios."""
OF_POLICIES = {"forgetting": "forgetting_base", "distinct answers": "distinct_frac", "entropy": "entropy"}
SIGNIFICANT = 0.05
HINDSIGHT = "plain RL, stopped at its best"
"""By the very held-out problems that it is judged by: what early stopping could give at most."""


def kept(run: Run) -> Run:
    """The run with those metrics alone that tables and figure show."""
    names = {f"{one}/{name}" for sets in SETS.values() for one in sets for name in SCORES} | set(OF_POLICIES.values())

    def shown(policy: Policy) -> Policy:
        return replace(policy, metrics={name: value for name, value in policy.metrics.items() if name in names})

    return replace(run, policies=tuple(map(shown, run.policies)))


def score(metrics: Mapping[str, float], sets: Sequence[str], name: str) -> float:
    """A metric, averaged over held-out sets."""
    return sum(metrics[f"{one}/{name}"] for one in sets) / len(sets)


def finals(runs: Sequence[Run], sets: Sequence[str], name: str) -> list[float]:
    """A metric of the final policies, by seed."""
    return [score(run.final, sets, name) for run in runs]


def stopped_at_its_best(run: Run) -> Run:
    """The run as it would be had one known when to stop: at its best held-out accuracy."""
    scores = [score(policy.metrics, SETS["in distribution"], "pass@1") for policy in run.policies[1:]]
    return replace(run, method=HINDSIGHT, policies=run.policies[: scores.index(max(scores)) + 2])


def tables(by_method: dict[str, list[Run]]) -> list[Table]:
    """Scores by held-out set, and what else there is to say of the final policies."""
    return [*(_scores(by_method, title, sets) for title, sets in SETS.items()), _others(by_method)]


def _scores(by_method: dict[str, list[Run]], title: str, sets: Sequence[str]) -> Table:
    drawn = Table(title=f"{title}: mean over seeds ± 95 % interval; p of a paired test against plain RL")
    for name in ("", *SCORES):
        drawn.add_column(name)
    plain = by_method["plain RL"]
    base = [estimate([score(run.base, sets, name) for run in plain]) for name in SCORES]
    drawn.add_row("base policy", *map(str, base))
    for method, runs in by_method.items():
        drawn.add_row(method, *(_against(runs, plain, sets, name) for name in SCORES))
    return drawn


def _against(runs: list[Run], plain: list[Run], sets: Sequence[str], name: str) -> str:
    ours, theirs = finals(runs, sets, name), finals(plain, sets, name)
    if runs is plain:
        return str(estimate(ours))
    p = paired_p(ours, theirs)
    return f"{estimate(ours)}" + ("" if math.isnan(p) else f" (p {p:.3f})")


def _others(by_method: dict[str, list[Run]]) -> Table:
    drawn = Table(title="final policies, all held-out sets; cost of the whole run")
    facts: dict[str, Callable[[Run], float]] = {
        **{title: lambda run, name=name: run.final[name] for title, name in OF_POLICIES.items()},
        "inter-step diversity": lambda run: run.diversity,
        "sampled tokens, k": lambda run: run.sampled_tokens / 1e3,
        "RFT tokens, k": lambda run: run.rft_tokens / 1e3,
        "RFT, s": lambda run: run.rft_s,
    }
    for name in ("", *facts):
        drawn.add_column(name)
    for method, runs in by_method.items():
        drawn.add_row(method, *(_cell(estimate([fact(run) for run in runs])) for fact in facts.values()))
    return drawn


def _cell(found: Estimate) -> str:
    return "-" if math.isnan(found.mean) else str(found) if found.mean < 10 else f"{found.mean:.0f}"


def rows(by_method: dict[str, list[Run]]) -> list[Row]:
    """Scores of every method, and RLoop's ratios to plain RL with the paper's aims."""
    made = []
    for title, sets in SETS.items():
        for method, runs in by_method.items():
            for name in SCORES:
                made.append(Row(f"{title}, {name}: {method}", estimate(finals(runs, sets, name)).mean, ""))
        for name, aim in AIMS.items():
            ours, plain = (finals(by_method.get(method, []), sets, name) for method in ("RLoop", "plain RL"))
            if not ours or not any(plain):  # nothing to compare with, or of which no multiple says anything
                continue
            made.append(Row(f"{title}, {name}: RLoop / plain RL", sum(ours) / sum(plain), "×", aim))
            made.append(Row(f"{title}, {name}: p of that", paired_p(ours, plain), "", SIGNIFICANT, "lower"))
    return made


def curves(by_method: dict[str, list[Run]]) -> list[dict[str, Any]]:
    """Mean scores of every policy on the way, with half of their intervals, over the RL steps that it had cost."""
    made = []
    for score_name in ("pass@1", "pass@32"):
        for title, sets in SETS.items():
            for method, runs in by_method.items():
                points = []
                for policies in zip(*(run.policies for run in runs), strict=True):
                    found = estimate([score(policy.metrics, sets, score_name) for policy in policies])
                    points.append((policies[0].rl_steps, found.mean, 0.0 if math.isnan(found.half) else found.half))
                made.append({"score": score_name, "sets": title, "method": method, "points": points})
    return made


def say(line: str) -> None:
    """Progress: a run takes minutes."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def run_once(method: str, seed: int, settings: list[str], folder: Path, results: Results | None) -> Run:
    """A method under a seed, from the results where it is there."""
    found = results.find(method, seed) if results else None
    if found is None:
        found = kept(run_or_resume(method, seed, settings, folder, say))
        if results:
            results.add(found)
    return found


def main() -> None:
    """Run what is missing, then show all of it."""
    parser = arguments("RLoop against plain RL and its ablations on countdown.")
    parser.add_argument("--seeds", help="comma-separated; 0,1,2,3,4 by default")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--schedulers", help="comma-separated; all by default, plain RL always")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a further setting of all runs")
    parser.add_argument("--name", default="effect", help="folder under runs/")
    parser.add_argument("--results", type=Path, metavar="FILE", help="finished runs: not run again, and added to")
    parser.add_argument("--curves", type=Path, metavar="FILE", help="scores over RL steps, for effect_figure.py")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else None
    seeds = seeds or list(QUICK_SEEDS if options.quick else SEEDS)
    settings = [*SETTINGS, *(QUICK if options.quick else ()), f"data.countdown.split={options.split}", *options.set]
    folder = ROOT / "runs" / f"{options.name}-{options.split}{'-quick' if options.quick else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {"vanilla", *(options.schedulers or ",".join(METHODS.values())).split(",")}
    methods = [method for method, scheduler in METHODS.items() if scheduler in wanted]
    results = Results(options.results, settings) if options.results else None
    runs = [run_once(method, seed, settings, folder, results) for seed in seeds for method in methods]
    by_method = {method: [run for run in runs if run.method == method] for method in methods}
    console = Console()
    if options.curves:
        options.curves.write_text(json.dumps(curves(by_method)))
    by_method[HINDSIGHT] = [stopped_at_its_best(run) for run in by_method["plain RL"]]
    for drawn in tables(by_method):
        console.print(drawn)
    report("RLoop against plain RL", rows(by_method), options.json)


if __name__ == "__main__":
    main()
