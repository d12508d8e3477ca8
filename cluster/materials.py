"""What a run is made of before any actor starts: a model directory, prompts, demonstrations.

Made once per run directory and found again on resume, so that a resumed run trains on what it started with.
"""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rollout.config import CountdownConfig, DataConfig
from rollout.countdown import CountdownProblem, demonstrations, problems
from rollout.datasets import write_supervised
from rollout.prompts import DataError, RawProblem, encode_prompts, load_prompts
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
    data = config.data
    train, held_out = _countdown(data.countdown, config.cluster.seed) if data.task == "countdown" else _files(data)
    context = config.rollout.context_length
    return (
        tuple(encode_prompts(train, tokenizer, data.instruction, context)),
        tuple(encode_prompts(held_out, tokenizer, data.instruction, context)),
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
        [problem.reference for problem in _countdown_held_out(config.data.countdown)],  # demonstrations leave these out
        config.trainer.compute_dtype,
        config.schedule.warmup_demos,
        config.rollout.context_length,
        config.cluster.seed,
    ]
    digest = hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:12]
    return (config.cluster.runs_dir / ".cache" / f"base-{digest}").resolve()


def _files(data: DataConfig) -> tuple[list[RawProblem], list[RawProblem]]:
    assert data.path is not None  # cluster.rules has seen to it
    keys = (data.question_key, data.answer_key, data.id_key)
    problems = load_prompts(data.path, *keys, limit=data.limit)
    if data.eval_path is not None:
        return problems, load_prompts(data.eval_path, *keys)
    order = np.random.default_rng(0).permutation(len(problems))  # the same rows are held out in every run
    count = max(1, round(len(problems) * data.eval_fraction))
    if count >= len(problems):
        raise DataError(
            [
                f"{data.path}: {len(problems)} problems do not split into training and held-out ones; add some, or set "
                "data.eval_path"
            ]
        )
    held_out = set(order[:count].tolist())
    return (
        [p for i, p in enumerate(problems) if i not in held_out],
        [p for i, p in enumerate(problems) if i in held_out],
    )


def _countdown(config: CountdownConfig, seed: int) -> tuple[list[RawProblem], list[RawProblem]]:
    held_out = _countdown_held_out(config)
    train: list[CountdownProblem] = []
    for size, count in _shares(config.train_numbers, config.train_problems):
        train += problems(size, count, seed, exclude=held_out)
    return [p.raw() for p in train], [p.raw() for p in held_out]


def _countdown_held_out(config: CountdownConfig) -> list[CountdownProblem]:
    """The same held-out problems whatever the seed of the run, so that runs can be compared."""
    return [p for size, count in _shares(config.eval_numbers, config.eval_problems) for p in problems(size, count, -1)]


def _shares(sizes: tuple[int, ...], count: int) -> list[tuple[int, int]]:
    """`count` dealt out over `sizes` as evenly as possible."""
    return [(size, count // len(sizes) + (i < count % len(sizes))) for i, size in enumerate(sizes)]


def _write_demonstrations(config: "RunConfig", tokenizer: Any, path: Path) -> None:
    held_out = _countdown_held_out(config.data.countdown)
    pairs = demonstrations(config.schedule.warmup_demos, config.cluster.seed, exclude=held_out)
    end = [tokenizer.eos_token_id]
    write_supervised(path, ((tokenizer.encode(prompt), tokenizer.encode(answer) + end) for prompt, answer in pairs))
