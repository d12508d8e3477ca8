"""What a run is made of before any actor starts: a model directory, prompts, demonstrations.

Made once per run directory and found again on resume, so that a resumed run trains on what it started with.
"""

import hashlib
import json
import shutil
from collections import defaultdict
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rollout.countdown import demonstrations
from rollout.countdown_sets import held_out_problems, hidden_problems, training_problems
from rollout.data_errors import Complaints, DataError
from rollout.datasets import write_supervised
from rollout.problem_files import ProblemFiles, TrainingSource, load_files
from rollout.problems import RawProblem
from rollout.prompt_order import Share
from rollout.prompts import encode_prompts
from rollout.records import IntArray, Prompt
from rollout.storage import LocalDisk

if TYPE_CHECKING:
    from cluster.config import RunConfig

_NOTED = "materials.json"
_SKIPPED = "skipped_rows.txt"
_PROBES = 4
_PROBE_LENGTH = 48  # tokens; enough to visit every layer and position pattern, cheap enough for every sync


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which weights a run starts from; kept in `materials.json`."""

    model_dir: str
    warmup_dataset: str
    """Demonstrations for the warm-up, relative to the run; empty when no warm-up is needed."""
    base_cache: str
    """Where the warm-up's result is kept for the next run; empty for nowhere."""


@dataclass(frozen=True, slots=True)
class RunData:
    """The problems of a run, as prompts."""

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    mixture: tuple[Share, ...]
    """How often which of `train` are drawn."""
    files: ProblemFiles
    """Where they come from; problems that could not be encoded are still there."""
    skipped: tuple[str, ...]
    """What is wrong with the rows that were left out."""


@dataclass(frozen=True, slots=True)
class Materials:
    """Everything the actors are built from."""

    recipe: Recipe
    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    mixture: tuple[Share, ...]
    """How often which of `train` are drawn."""
    probe: tuple[IntArray, ...]
    """[≤48] token sequences that learner and engines score after every weight sync."""


def prepare(config: "RunConfig", run_dir: Path) -> Materials:
    """Make the materials of a new run, or find those of a run that is resumed.

    Raises:
        DataError: When the data cannot be used; it names file, row, value and remedy.
    """
    recipe = noted_recipe(run_dir)
    if recipe is None:
        recipe = _make_recipe(config, run_dir)
        LocalDisk(run_dir).replace(_NOTED, json.dumps(asdict(recipe), indent=1).encode())
    tokenizer = load_tokenizer(recipe.model_dir)
    data = load_data(config, tokenizer)
    if data.skipped:
        LocalDisk(run_dir).replace(_SKIPPED, "".join(f"{why}\n" for why in data.skipped).encode())
    probe = probe_sequences(len(tokenizer), config.rollout.context_length)
    return Materials(recipe, data.train, data.held_out, data.mixture, probe)


def noted_recipe(run_dir: Path) -> Recipe | None:
    """What a run was made from; None before its first start got so far."""
    noted = run_dir / _NOTED
    return Recipe(**json.loads(noted.read_text())) if noted.exists() else None


def load_tokenizer(model_dir: str) -> Any:
    """The model's own tokenizer, from disk only."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir, local_files_only=True)


def load_data(config: "RunConfig", tokenizer: Any) -> RunData:
    """Training and held-out prompts, without a problem in common.

    Raises:
        DataError: When the data cannot be used; it names file, row, value and remedy.
    """
    data, complaints = config.data, Complaints(config.data.on_bad_row == "skip")
    files = raw_data(config)

    def encode(problems: list[RawProblem]) -> tuple[Prompt, ...]:
        context = config.rollout.context_length
        return tuple(encode_prompts(problems, tokenizer, data.instruction, context, complaints))

    train = [encode(source.problems) for source in files.train]
    held_out = encode(_in_turn(files.held_out))
    skipped = (*files.skipped, *complaints.settle())
    if empty := [source.name for source, prompts in zip(files.train, train, strict=True) if not prompts]:
        raise DataError([f"{name}: every row is skipped; the first: {skipped[0]}" for name in empty])
    shares = tuple(
        Share(tuple(prompt.id for prompt in prompts), source.weight or len(prompts))
        for source, prompts in zip(files.train, train, strict=True)
    )
    return RunData(tuple(prompt for prompts in train for prompt in prompts), held_out, shares, files, skipped)


def raw_data(config: "RunConfig") -> ProblemFiles:
    """The problems of a run, not yet encoded."""
    if config.data.task == "file":
        return load_files(config.data, config.verifier.name, config.verifier_specs())
    train = training_problems(config.data.countdown, config.cluster.seed)
    source = TrainingSource("countdown", None, train)
    held_out = held_out_problems(config.data.countdown)
    return ProblemFiles((source,), held_out, sets=((source.name, train),), notes=(), skipped=())


def probe_sequences(vocabulary: int, context_length: int) -> tuple[IntArray, ...]:
    """Fixed random token sequences: they touch rows of the embedding that real text seldom visits."""
    length = min(_PROBE_LENGTH, context_length - 1)
    random = np.random.default_rng(0)
    return tuple(random.integers(0, vocabulary, length).astype(np.int32) for _ in range(_PROBES))


def _make_recipe(config: "RunConfig", run_dir: Path) -> Recipe:
    if config.model.path is not None:
        return Recipe(str(config.model.path.resolve()), warmup_dataset="", base_cache="")
    from trainer.scratch import make_model

    cache = base_cache(config)
    if config.schedule.warmup_demos and cache.exists():
        # A copy: the run must not depend on what becomes of the cache.
        shutil.copytree(cache, run_dir / "model", dirs_exist_ok=True)
        return Recipe(str((run_dir / "model").resolve()), warmup_dataset="", base_cache="")
    model_dir = make_model(config.model.scratch, run_dir / "model", config.rollout.context_length, config.cluster.seed)
    if not config.schedule.warmup_demos:
        return Recipe(str(model_dir), warmup_dataset="", base_cache="")
    _write_demonstrations(config, load_tokenizer(str(model_dir)), run_dir / "warmup.parquet")
    return Recipe(str(model_dir), warmup_dataset="warmup.parquet", base_cache=str(cache))


def base_cache(config: "RunConfig") -> Path:
    """Where the base policy of this recipe is kept: named after everything that shapes it."""
    shapes = [
        config.model.scratch.model_dump_json(),
        config.trainer.warmup.model_dump_json(),
        config.trainer.max_grad_norm,
        [problem.reference for problem in hidden_problems(config.data.countdown)],  # demonstrations leave these out
        config.data.countdown.other_form_demos,
        config.trainer.compute_dtype,
        config.schedule.warmup_demos,
        config.rollout.context_length,
        config.cluster.seed,
    ]
    digest = hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:12]
    return (config.cluster.runs_dir / ".cache" / f"base-{digest}").resolve()


def _in_turn(problems: list[RawProblem]) -> list[RawProblem]:
    """Held-out problems with their sets taking turns, so that the first N of all are about as many of each."""
    sets: dict[str, list[RawProblem]] = defaultdict(list)
    for problem in problems:
        sets[problem.tag].append(problem)
    return [problem for turn in zip_longest(*sets.values()) for problem in turn if problem]


def _write_demonstrations(config: "RunConfig", tokenizer: Any, path: Path) -> None:
    task, seed = config.data.countdown, config.cluster.seed
    hidden, other_form = hidden_problems(task), task.other_form_demos
    pairs = demonstrations(config.schedule.warmup_demos, seed, exclude=hidden, other_form=other_form)
    end = [tokenizer.eos_token_id]
    write_supervised(path, ((tokenizer.encode(prompt), tokenizer.encode(answer) + end) for prompt, answer in pairs))
