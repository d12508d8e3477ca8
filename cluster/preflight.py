"""Everything that can be refused is refused here, in one list, before any process or directory exists.

Returns the plan of the run: what `--dry-run` prints and what a person would want to know before waiting.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import sinks
from cluster.config import RunConfig
from cluster.gold_check import GoldCheck, gold_checks
from cluster.machine import GIB, MIB, Machine, Need, need, shortages
from cluster.model_files import ModelFacts, read_model, scratch_facts
from cluster.packages import installed_collisions
from cluster.plural import plural
from cluster.rules import advice
from cluster.rundir import run_dir_problems
from cluster.settings import Refused
from trainer.advantages.catalogue import ADVANTAGE_NAMES
from trainer.config import ScheduleConfig, TrainerConfig
from trainer.losses.options import LOSS_NAMES
from trainer.phases import Phase
from trainer.schedules import SCHEDULER_NAMES, make_scheduler, walk
from verifiers.plugin import UnknownName, by_path

if TYPE_CHECKING:
    from cluster.materials import RunData

_MAX_SKIPPED = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """A run that passed every check."""

    config: RunConfig
    run_dir: Path
    model: ModelFacts
    machine: Machine
    need: Need
    train_problems: int
    held_out_problems: int
    held_out_sets: dict[str, int]
    """How many of these are in each set."""
    longest_prompt: int
    """Tokens."""
    data_notes: tuple[str, ...]
    """A line per data set: its rows, and which columns are what."""
    skipped: tuple[str, ...]
    """What is wrong with the rows that were left out."""
    gold: tuple[GoldCheck, ...]

    def __str__(self) -> str:
        c = self.config
        rows = [
            ("model", f"{self.model.name}, {_count(self.model.parameters)} parameters"),
            (
                "data",
                f"{self.train_problems} training and {self.held_out_problems} held-out problems{self._sets()}; the "
                f"longest prompt has {self.longest_prompt} tokens",
            ),
            *(("data set", note) for note in self.data_notes),
            *(("gold answers", line) for check in self.gold for line in (check.line(), *check.rows())),
            *(("skipped", line) for line in self._skipped()),
            ("schedule", _schedule(c.schedule)),
            (
                "step",
                f"{c.rollout.groups_per_step} problems × {c.rollout.group_size} answers, at most "
                f"{c.rollout.max_staleness:g} versions old",
            ),
            (
                "processes",
                f"{plural(c.actors.rollout_workers, 'rollout worker')}, {plural(c.trainer.ranks, 'learner rank')}, "
                f"{plural(c.verifier.processes, 'verifier process')}, on {self.machine.cores} cores",
            ),
            ("memory", f"about {self.need.memory / GIB:.1f} of {self.machine.memory / GIB:.1f} GiB free"),
            ("/dev/shm", f"{self.need.object_store // MIB} of {self.machine.shared_memory // MIB} MiB free"),
            ("run directory", str(self.run_dir)),
            *(("note", sentence) for sentence in [*self._long_prompts(), *advice(c)]),
        ]
        return "\n".join(f"  {label:<14} {text}" for label, text in rows)

    def _sets(self) -> str:
        named = ", ".join(f"{name}: {count}" for name, count in self.held_out_sets.items())
        return f" ({named})" if len(self.held_out_sets) > 1 else ""

    def _skipped(self) -> list[str]:
        if not self.skipped:
            return []
        more = len(self.skipped) - _MAX_SKIPPED
        rest = [f"and {more} more; all are in skipped_rows.txt of the run"] if more > 0 else []
        return [f"{plural(len(self.skipped), 'bad row')}, left out", *self.skipped[:_MAX_SKIPPED], *rest]

    def _long_prompts(self) -> list[str]:
        room = self.config.rollout.context_length - self.longest_prompt
        if room >= self.config.rollout.max_new_tokens:
            return []
        return [
            f"answers to the longest prompt end after {room} tokens, not rollout.max_new_tokens="
            f"{self.config.rollout.max_new_tokens}; raise rollout.context_length"
        ]


def check(config: RunConfig, run_dir: Path, machine: Machine, resume: bool = False) -> Plan:
    """Look at everything a run touches.

    Args:
        config: The resolved run.
        run_dir: Where it will live; it must exist exactly when `resume`.
        machine: What is free here.
        resume: Whether the run goes on in an existing directory.

    Raises:
        Refused: With a sentence per problem, each with its remedy.
    """
    problems = [*installed_collisions(), *run_dir_problems(run_dir, resume)]
    model, tokenizer, more = model_of(config)
    problems += more
    if model is not None:
        problems += shortages(config, model, machine)
    data, more = data_problems(config, tokenizer)
    sets = Counter(prompt.tag for prompt in data.held_out) if data else Counter()
    problems += [*more, *_verifiers(config), *_plugins(config), *_set_names(config, sets)]
    problems += [f"cluster.sinks: {problem}" for problem in sinks.missing(config.cluster.sinks)]
    if config.cluster.ray_address is None:
        problems += _missing_here(config.trainer, machine)
    if problems or model is None or data is None:
        raise Refused(problems)
    gold = [] if resume else _gold(config, data)
    return Plan(
        config=config,
        run_dir=run_dir,
        model=model,
        machine=machine,
        need=need(config, model, machine.has_gpu),
        train_problems=len(data.train),
        held_out_problems=len(data.held_out),
        held_out_sets=sets,
        longest_prompt=max(len(prompt.token_ids) for prompt in (*data.train, *data.held_out)),
        data_notes=data.files.notes,
        skipped=data.skipped,
        gold=tuple(gold),
    )


def check_evaluation(config: RunConfig, checkpoint: Path, machine: Machine, json_file: Path | None = None) -> None:
    """Look at what `rloop eval` touches: no learner, so any model that the engine serves will do.

    Raises:
        Refused: With a sentence per problem, each with its remedy.
    """
    model, problems = read_model(checkpoint, trained=False)
    problems = [*installed_collisions(), *problems]
    tokenizer = None
    if model is not None:
        tokenizer, more = _tokenizer(checkpoint)
        problems += [*more, *shortages(config, model, machine, trained=False)]
    if json_file and not (json_file.absolute().parent.is_dir() and os.access(json_file.absolute().parent, os.W_OK)):
        problems.append(f"--json {json_file}: cannot be written there; name a file in a directory of yours")
    problems += [*data_problems(config, tokenizer)[1], *_verifiers(config)]
    if problems:
        raise Refused(problems)


def model_of(config: RunConfig) -> tuple[ModelFacts | None, Any, list[str]]:
    """The model that a run starts from, its tokenizer, and what is wrong with either."""
    if config.model.path is None:
        from trainer.scratch_tokenizer import make_tokenizer

        tokenizer = make_tokenizer(config.model.scratch.tokenizer, config.rollout.context_length)
        return scratch_facts(config.model.scratch, len(tokenizer), config.rollout.context_length), tokenizer, []
    model, problems = read_model(config.model.path)
    if model is None:
        return None, None, problems
    tokenizer, more = _tokenizer(config.model.path)
    return model, tokenizer, [*problems, *more]


def _tokenizer(path: Path) -> tuple[Any, list[str]]:
    from cluster.materials import load_tokenizer

    try:
        return load_tokenizer(str(path)), []
    except Exception as error:  # transformers raises many kinds for a directory it cannot read
        return None, [f"{path}: its tokenizer does not load: {error}; save it again with tokenizer.save_pretrained"]


def data_problems(config: RunConfig, tokenizer: Any | None) -> "tuple[RunData | None, list[str]]":
    """The run's prompts, or what is wrong with them; without a tokenizer only the rows are looked at."""
    from cluster.materials import load_data, raw_data
    from rollout.data_errors import DataError

    try:
        if tokenizer is not None:
            return load_data(config, tokenizer), []
        raw_data(config)
    except DataError as error:
        return None, list(error.problems)
    except ValueError as error:  # more countdown problems than there are
        return None, [f"data.countdown: {error}"]
    return None, []


def _gold(config: RunConfig, data: "RunData") -> list[GoldCheck]:
    """What the verifiers say of the gold answers in the data. Refuses sets of which too few score as correct."""
    floor = config.data.gold_floor
    checks = gold_checks(config, data.files) if config.data.task == "file" else []
    if bad := [line for check in checks if not check.passes(floor) for line in check.refusal(floor)]:
        raise Refused(bad)
    return checks


def _verifiers(config: RunConfig) -> Iterator[str]:
    """Verifiers that cannot be loaded: the run's, and those of its data sets."""
    from verifiers.catalogue import load

    for name, spec in config.verifier_specs().items():
        where = f"verifier.others.{name}" if name in config.verifier.others else "data: verifier of a set"
        try:
            if name != config.verifier.name:  # the run's own has the empty name too
                load(spec.name, spec.arguments)
        except (ValueError, TypeError) as error:
            yield f"{where if name else 'verifier.name'}: {error}"


def _plugins(config: RunConfig) -> Iterator[str]:
    """Names that lead nowhere."""
    for section, key, name, built_in in (
        ("trainer.rl", "loss", config.trainer.rl.loss, LOSS_NAMES),
        ("trainer.rl", "advantage", config.trainer.rl.advantage, ADVANTAGE_NAMES),
        ("schedule", "scheduler", config.schedule.scheduler, SCHEDULER_NAMES),
    ):
        try:
            if name not in built_in:
                by_path(name, key, built_in)
        except UnknownName as error:
            yield f"{section}.{key}: {error}"
    try:
        walk(make_scheduler(config.schedule, warmup=False))
    except UnknownName:
        pass  # said already
    except ValueError as error:
        yield f"schedule.scheduler={config.schedule.scheduler}: {error}"


def _set_names(config: RunConfig, sets: Collection[str]) -> Iterator[str]:
    """Metrics of held-out sets that do not exist."""
    metrics = {"eval.best_by": config.eval.best_by, "schedule.end.overfit_metric": config.schedule.end.overfit_metric}
    for key, metric in metrics.items():
        name = (metric or "").rpartition("/")[0]
        if sets and name and name not in sets:
            yield f"{key}={metric}: there is no held-out set {name!r}, only {', '.join(sorted(filter(None, sets)))}"


def _missing_here(trainer: TrainerConfig, machine: Machine) -> Iterator[str]:
    """What options of the learner need and this machine, on which it will run, has not got."""
    if trainer.fused_kernels and not machine.has_gpu:
        yield "trainer.fused_kernels=true needs a GPU, there is none here; set it to false"
    kinds = {trainer.rl.optim.name, trainer.rft.optim.name, trainer.warmup.optim.name}
    if "adamw_8bit" in kinds and not find_spec("torchao"):
        yield "optim.name=adamw_8bit needs torchao, which is not installed; install rloop[torchao], or use adamw"


def _schedule(schedule: ScheduleConfig) -> str:
    """The phases of the first iteration, and how many iterations there are."""
    done = walk(make_scheduler(schedule, warmup=False))
    cycle = " → ".join(_words(phase) for phase in done if phase.iteration == 0)
    times = len({phase.iteration for phase in done})
    warmup = f"warm-up on {schedule.warmup_demos} demonstrations, then " if schedule.warmup_demos else ""
    return f"{schedule.scheduler}: {warmup}{f'{times} × ({cycle})' if times > 1 else cycle}"


def _words(phase: Phase) -> str:
    match phase.kind:
        case "rl":
            return f"RL {phase.steps} steps"
        case "sample":
            return f"sampling as much as RL would in {phase.steps} steps"
        case "rft":
            return "RFT of the policy it started from" if phase.init_from.startswith("theta") else "RFT of its end"
        case _:
            return "average with its start"


def _count(n: int) -> str:
    """Parameters for people: 0.45 M, 1.7 B."""
    return f"{n / 1e9:.1f} B" if n >= 1e9 else f"{n / 1e6:.2f} M"
