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
from rollout.datasets import write_supervised
from rollout.problem_files import load_files
from rollout.prompts import RawProblem, encode_prompts
from rollout.records import IntArray, Prompt
from rollout.storage import LocalDisk

if TYPE_CHECKING:
    from cluster.config import RunConfig

_NOTED = "materials.json"
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
class Materials:
    """Everything the actors are built from."""

    recipe: Recipe
    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
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
    train, held_out = load_problems(config, tokenizer)
    return Materials(recipe, train, held_out, probe_sequences(len(tokenizer), config.rollout.context_length))


def noted_recipe(run_dir: Path) -> Recipe | None:
    """What a run was made from; None before its first start got so far."""
    noted = run_dir / _NOTED
    return Recipe(**json.loads(noted.read_text())) if noted.exists() else None


def load_tokenizer(model_dir: str) -> Any:
    """The model's own tokenizer, from disk only."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir, local_files_only=True)


def load_problems(config: "RunConfig", tokenizer: Any) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Training and held-out prompts, without a problem in common."""
    data, context = config.data, config.rollout.context_length
    if data.task == "countdown":
        train = training_problems(data.countdown, config.cluster.seed)
        held_out = held_out_problems(data.countdown)
    else:
        train, held_out = load_files(data)
    return (
        tuple(encode_prompts(train, tokenizer, data.instruction, context)),
        tuple(encode_prompts(_in_turn(held_out), tokenizer, data.instruction, context)),
    )


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
