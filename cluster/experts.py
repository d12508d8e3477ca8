"""`rloop experts RUN`: the expert set of an iteration, what was left out of it and why; and its export.

Reads the run directory and draws; takes no lock. What is chosen is decided in `rollout.experts`, by the run's own
rule and schedule unless something else is asked for.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from cluster.audit import manifest_of, opened
from cluster.config import RunConfig
from cluster.exits import Exit
from cluster.expert_export import export_chat, export_parquet
from cluster.materials import load_tokenizer, noted_recipe
from cluster.settings import Refused
from rollout.expert_diversity import N
from rollout.expert_index import phase_groups
from rollout.expert_report import ExpertReport
from rollout.expert_rule import ExpertRule
from rollout.experts import select_experts
from rollout.storage import LocalDisk
from trainer.config import ScheduleConfig
from trainer.phases import Phase
from trainer.schedules import make_scheduler

_EXPORTS = {".parquet": export_parquet, ".jsonl": export_chat}
_ROWS = 12
"""Of the chart at most."""
_BAR = 40
"""Characters of its longest bar."""


def show_experts(
    run_dir: Path,
    console: Console,
    iteration: int | None,
    tau_hard: float | None,
    max_per_prompt: int | None,
    last_steps: int | None,
    out: Path | None,
) -> Exit:
    """Print the report on an expert set, and write the set to `out`. `iteration` counts from 1; None is the newest.

    Raises:
        Refused: When the run has no such iteration, or `out` cannot be written.
    """
    config, journal = opened(run_dir)
    done = manifest_of(run_dir).done
    number = _number(run_dir, journal, iteration)
    last_steps = _planned_last_steps(config.schedule, number) if last_steps is None else last_steps
    rule = _rule(config, tau_hard, max_per_prompt, last_steps)
    if out is None:
        report = select_experts(journal, number, rule, None)
    else:
        report = _export(run_dir, journal, number, rule, out)
    over = any(phase.iteration == number and phase.kind != "warmup" for phase in done)
    head = f"Expert set of iteration {number + 1}{'' if over else ', so far'}: {_told(rule)}"
    console.print(head, highlight=False, soft_wrap=True)
    console.print(_table(report, rule))
    if report.kept:
        console.print(_chart(report.per_step))
    for line in _facts(report, out):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return Exit.DONE


def _rule(config: RunConfig, tau_hard: float | None, max_per_prompt: int | None, last_steps: int) -> ExpertRule:
    tau_hard = config.schedule.tau_hard if tau_hard is None else tau_hard
    if not 0 < tau_hard <= 1:
        raise Refused([f"--tau-hard is a success rate above 0 and at most 1, got {tau_hard:g}; 1 keeps every problem"])
    return ExpertRule(tau_hard, max_per_prompt or config.schedule.max_per_prompt, config.cluster.seed, last_steps)


def _planned_last_steps(schedule: ScheduleConfig, number: int) -> int:
    """Of the RFT phase that learns from the set; 0 where the schedule has none."""
    scheduler, planned = make_scheduler(schedule, warmup=False), list[Phase]()
    while phase := scheduler.next(planned):
        planned.append(phase)
    return next((phase.last_steps for phase in planned if (phase.kind, phase.iteration) == ("rft", number)), 0)


def _number(run_dir: Path, journal: LocalDisk, iteration: int | None) -> int:
    """The iteration as the journal counts it."""
    known = list(phase_groups(journal))
    if not known:
        raise Refused([f"{run_dir} has no finished answers to training problems yet; look again during an RL phase"])
    if iteration is None:
        return known[-1]
    if iteration - 1 not in known:
        have = ", ".join(str(number + 1) for number in known)
        raise Refused([f"{run_dir} has no answers of iteration {iteration}; it has {have} (the first is 1)"])
    return iteration - 1


def _export(run_dir: Path, journal: LocalDisk, number: int, rule: ExpertRule, out: Path) -> ExpertReport:
    if out.suffix not in _EXPORTS:
        raise Refused([f"--out {out}: ends in {' or '.join(_EXPORTS)}, got {out.suffix!r}; name it so"])
    if out.resolve().is_relative_to(run_dir.resolve()):
        raise Refused([f"--out {out}: lies in the run directory, whose files a resume relies on; name one elsewhere"])
    if not out.parent.is_dir():
        raise Refused([f"--out {out}: there is no directory {out.parent}; make it first"])
    tokenizer = _tokenizer(run_dir)
    with TemporaryDirectory(prefix=".rloop-experts-", dir=out.parent) as scratch:
        chosen = Path(scratch) / "experts.parquet"
        report = select_experts(journal, number, rule, chosen)
        _EXPORTS[out.suffix](chosen, out, tokenizer)
    return report


def _tokenizer(run_dir: Path) -> Any:
    recipe = noted_recipe(run_dir)
    if recipe is None:
        raise Refused([f"{run_dir} has no materials.json, which names its tokenizer; restore it from a copy"])
    try:
        return load_tokenizer(recipe.model_dir)
    except Exception as error:  # transformers raises what it likes
        what = f"the tokenizer of {run_dir}, in {recipe.model_dir}, does not load: {error}"
        raise Refused([f"{what}; an export needs it to decode the answers: put the model directory back"]) from None


def _told(rule: ExpertRule) -> str:
    steps = f", from the last {rule.last_steps} steps alone" if rule.last_steps else ""
    return f"success rate above 0 and at most {rule.tau_hard:g}, {rule.max_per_prompt} or fewer per problem{steps}"


def _table(report: ExpertReport, rule: ExpertRule) -> Table:
    """Every answer with a verdict; each is in one row from `left out` on, or wrong."""
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.add_column("what", no_wrap=True)
    for name in ("answers", "problems"):
        drawn.add_column(name, justify="right", no_wrap=True)
    rows = {
        "with a verdict": (report.attempts, report.prompts),
        "wrong; problems never solved": (report.attempts - report.correct, report.prompts_unsolved),
        "correct; problems solved": (report.correct, report.prompts_solved),
        "  left out: truncated or empty": (report.truncated, 0),
        "  left out: problem too easy": (report.too_easy, report.prompts_too_easy),
        "  left out: same tokens as an earlier one": (report.duplicates, 0),
        f"  left out: beyond {rule.max_per_prompt} per problem": (report.over_cap, report.prompts_capped),
        "kept": (report.kept, report.prompts_kept),
    }
    for name, numbers in rows.items():
        drawn.add_row(name, *(f"{number:,}" if number else "-" for number in numbers))
    return drawn


def _chart(per_step: dict[int, int]) -> Table:
    """Answers kept from equal stretches of the phase, a bar each."""
    first, last = min(per_step), max(per_step)
    width = -(-(last - first + 1) // _ROWS)
    counts = dict.fromkeys(range(first, last + 1, width), 0)
    for step, count in per_step.items():
        counts[step - (step - first) % width] += count
    drawn = Table(title="Kept, by the RL steps done when they came in", title_justify="left", title_style="dim")
    drawn.box, drawn.show_header, drawn.padding = None, False, (0, 2, 0, 0)
    drawn.add_column(justify="right", no_wrap=True)
    drawn.add_column(justify="right", no_wrap=True)
    drawn.add_column(no_wrap=True)
    for start, count in counts.items():
        end = min(start + width - 1, last)
        bar = "█" * -(-count * _BAR // max(counts.values()))
        drawn.add_row(f"{start}-{end}" if end > start else str(start), f"{count:,}" if count else "-", bar)
    return drawn


def _facts(report: ExpertReport, out: Path | None) -> list[str]:
    facts = [f"{report.tokens:,} tokens; mean success rate of the problems kept: {report.mean_success:.3f}"]
    if report.diversity is not None:
        told = f"1 - mean Jaccard similarity of the token {N}-grams of two"
        facts.append(f"Diversity of the answers kept to one problem: {report.diversity:.3f} ({told})")
    if out:
        facts.append(f"Written: {out} ({report.kept:,} answers)")
    return facts
