"""The `data`, `rollout` and `eval` sections of a run file."""

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_serializer

_S = TypeVar("_S", bound="SetConfig")
_OF_ROWS = ("question_key", "answer_key", "id_key", "tag_key", "response_key", "verifier_key", "extra_keys")


class CountdownConfig(BaseModel):
    """Generated problems: reach the target by combining numbers, one step at a time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_problems: int = Field(200, ge=1, description="Training problems, half of each size in `train_numbers`.")
    eval_problems: int = Field(60, ge=1, description="Held-out problems, shared out over `eval_numbers`.")
    train_numbers: tuple[int, ...] = Field((3, 4), description="How many numbers a training problem has (3-5).")
    eval_numbers: tuple[int, ...] = Field((3, 4), description="How many numbers a held-out problem has (3-5).")
    harder_problems: int = Field(0, ge=0, description="Held-out problems of 5 numbers, which RL does not train.")
    other_form_problems: int = Field(
        0, ge=0, description="Held-out problems written `14=3,7,2,5:`, of the largest size in `eval_numbers`."
    )
    other_form_demos: float = Field(
        0.0, ge=0, le=1, description="Share of the warm-up demonstrations in that form; RL never trains it."
    )
    split: Literal["test", "validation"] = Field(
        "test", description="Which held-out problems are evaluated; neither split is ever trained or demonstrated."
    )


_QUESTION = Field(
    None, description="Column of the problem, text or messages, e.g. `extra_info.question`; null finds it."
)
_ANSWER = Field(None, description="Column of the reference; null finds it, '' where the verifier needs none.")
_ID = Field(None, description="Column of a unique id; null: `id`. Rows without one are numbered.")
_TAG = Field(None, description="Column that parts held-out problems into sets, e.g. `level`; null for none.")
_RESPONSE = Field(None, description="Column of a response that must score as correct; null for none.")
_VERIFIER = Field(
    None, description="Column that names the verifier of each row; null: `verifier`, '' leaves that one unread."
)
_EXTRAS = Field(None, description="Further columns kept for the verifier; null keeps all, [] none.")
_SPLIT = Field(None, description="Split of `path`, where that is a directory or a hub data set; null: `train`.")
_SUBSET = Field(None, description="Subset (configuration) of `path`, where that has several.")


class SetConfig(BaseModel):
    """One set of problems: its file, and what is different about its rows. Null: as `data` says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(description="File, directory, or hf:OWNER/NAME.")
    split: str | None = _SPLIT
    subset: str | None = _SUBSET
    verifier: str | None = Field(None, description="Verifier of rows that name none; null: `verifier.name`.")
    question_key: str | None = _QUESTION
    answer_key: str | None = _ANSWER
    id_key: str | None = _ID
    tag_key: str | None = _TAG
    response_key: str | None = _RESPONSE
    verifier_key: str | None = _VERIFIER
    extra_keys: tuple[str, ...] | None = _EXTRAS

    @model_serializer(mode="wrap")
    def _short(self, dump: Any) -> dict[str, Any]:
        """What is not said is not written."""
        return {key: value for key, value in dump(self).items() if value is not None}


class SourceConfig(SetConfig):
    """One source of training problems in a mixture."""

    name: str | None = Field(None, description="What it is called; null: its file's name without the ending.")
    weight: float | None = Field(None, gt=0, le=1e6, description="Groups drawn from it, relative to other sources.")
    limit: int | None = Field(None, ge=1, description="Use only its first N problems.")

    @property
    def called(self) -> str:
        """Its name in ids, metrics and messages."""
        return self.name or self.path.name.partition(".")[0]


class DataConfig(BaseModel):
    """Where problems come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Literal["file", "countdown"] = Field(
        "file", description="`file` reads `path`; `countdown` generates problems, nothing to download."
    )
    path: Path | None = Field(
        None, description="Training problems (task=file): JSONL, Parquet, Arrow, a directory, or hf:OWNER/NAME."
    )
    sources: tuple[SourceConfig, ...] = Field(
        (), description="Several sources instead of `path`: `[{path: a.jsonl, weight: 3, verifier: math}, …]`."
    )
    eval_path: Path | SetConfig | None = Field(
        None, description="Held-out problems, or `{path, split…}`; null holds `eval_fraction` out of the training data."
    )
    eval_sets: dict[str, Path | SetConfig] = Field(
        default_factory=dict,
        description="Further held-out sets, e.g. `{aime: aime.jsonl}`; each is reported under its name.",
    )
    eval_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of the training data held out when `eval_path` is unset."
    )
    split: str | None = _SPLIT
    subset: str | None = _SUBSET
    question_key: str | None = _QUESTION
    answer_key: str | None = _ANSWER
    id_key: str | None = _ID
    tag_key: str | None = _TAG
    response_key: str | None = _RESPONSE
    verifier_key: str | None = _VERIFIER
    extra_keys: tuple[str, ...] | None = _EXTRAS
    instruction: str = Field(
        "", description="Text put before every problem, e.g. how to mark the final answer; empty for none."
    )
    limit: int | None = Field(None, ge=1, description="Use only the first N training problems of each source.")
    on_bad_row: Literal["refuse", "skip"] = Field(
        "refuse", description="Rows that cannot be used end the run before it starts, or are left out and listed."
    )
    check_gold: int = Field(
        64, ge=0, le=10_000, description="Gold answers of each set that the verifier must accept at first; 0: none."
    )
    gold_floor: float = Field(0.95, gt=0, le=1, description="Share of these that must score as correct.")
    countdown: CountdownConfig = Field(default_factory=CountdownConfig, description="Settings of task=countdown.")

    def training_sources(self) -> tuple[SourceConfig, ...]:
        """The sources, with what `data` says for all of them; `path` is one."""
        alone = (SourceConfig(path=self.path, split=self.split, subset=self.subset),) if self.path else ()
        asked = self.sources or alone
        return tuple(self._completed(source, "limit", *_OF_ROWS) for source in asked)

    def sets(self) -> tuple[SetConfig, ...]:
        """Everything that is read: sources and held-out sets."""
        held_out = [self.eval_path, *self.eval_sets.values()]
        return *self.training_sources(), *(self.held_out_set(asked) for asked in held_out if asked is not None)

    def held_out_set(self, asked: Path | SetConfig) -> SetConfig:
        """A held-out set, with what `data` says for all of them."""
        return self._completed(SetConfig(path=asked) if isinstance(asked, Path) else asked, *_OF_ROWS)

    def _completed(self, asked: _S, *keys: str) -> _S:
        unsaid = {key: getattr(self, key) for key in keys if getattr(asked, key) is None}
        return asked.model_copy(update=unsaid)


class EngineConfig(BaseModel):
    """The generation engine inside each rollout worker."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Precision the engine computes in; bfloat16 on GPUs."
    )
    kv_cache_mb: int | None = Field(
        256, ge=16, description="KV cache in MiB; null lets the engine take what the GPU has."
    )
    kv_on_update: Literal["keep", "recompute"] = Field(
        "keep",
        description="KV of answers under way when weights change: keep it, or recompute it (exact, longer pause).",
    )
    max_num_seqs: int = Field(256, ge=1, description="Sequences decoded together at most.")
    prefix_caching: bool = Field(True, description="Reuse the KV of prompts, and continued answers, that begin alike.")
    eager: bool = Field(True, description="Skip compilation: starts a minute sooner, up to 1.3 × slower.")
    packed_weights: bool = Field(
        True,
        description="On CPU: matrices packed for oneDNN. Unpacked: faster to update, up to a quarter slower to decode.",
    )
    tensor_parallel: int = Field(1, ge=1, description="GPUs per engine.")


class RolloutConfig(BaseModel):
    """How answers are generated and how far generation may run ahead of training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group_size: int = Field(8, ge=2, description="Answers per problem (G).")
    groups_per_step: int = Field(16, ge=1, description="Problems per optimizer step (B).")
    max_staleness: float = Field(
        1.0,
        ge=0,
        le=64,
        description="Policy versions a trained token may be old (η); 0 is synchronous training.",
    )
    wait_for_late: bool = Field(
        True, description="A step waits for answers that would be too old for the next one; false drops them."
    )
    oversample: float = Field(
        1.0,
        ge=1,
        le=8,
        description="Groups started per group needed (APRIL's N'/N); the rest is interrupted, and goes on later.",
    )
    max_concurrent: int = Field(32, ge=1, description="Groups generated at once per worker.")
    report_every_s: float = Field(
        2.0, gt=0, le=600, description="Seconds between reports of unfinished answers: what a lost worker may cost."
    )
    max_new_tokens: int = Field(64, ge=1, description="Longest answer, in tokens.")
    context_length: int = Field(128, ge=8, description="Longest prompt plus answer, in tokens.")
    temperature: float = Field(1.0, gt=0, le=10, description="Sampling temperature; the learner applies the same.")
    drop_zero_variance: bool = Field(
        True, description="Dynamic sampling (DAPO): groups whose answers all score alike are not trained."
    )
    max_failed_frac: float = Field(
        0.5, gt=0, le=1, description="Share of answers without a verdict (over 4 steps) that ends the run."
    )
    max_attempts: int = Field(
        3, ge=1, description="Leases of one group that may end with their worker lost; then the group is dropped."
    )
    deterministic: bool = Field(
        False,
        description="Repeat bit for bit: answers one at a time, none continued (max_staleness=0, ranks=1).",
    )
    engine: EngineConfig = Field(default_factory=EngineConfig, description="The engine inside each worker.")


class EvalConfig(BaseModel):
    """Held-out evaluation after every phase."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(32, ge=1, description="Answers per held-out problem (n of pass@k).")
    ks: tuple[int, ...] = Field((1, 8, 32), description="k of pass@k, maj@k and worst@k; each at most `samples`.")
    temperature: float = Field(1.0, gt=0, le=10, description="Sampling temperature of evaluation.")
    limit: int | None = Field(None, ge=1, description="Use only N held-out problems, shared out over the sets.")
    after_rl: bool = Field(True, description="Also where an RL phase ended, when another phase follows.")
    every_steps: int | None = Field(None, ge=1, description="RL steps between evaluations in a phase; null: none.")
    overlap: bool = Field(
        True, description="Training goes on during those, whose answers then come from several versions."
    )
    best_by: str | None = Field(
        None, description="Metric of the best policy: `pass@8`, of one set `harder/pass@8`; null: accuracy, avg@n."
    )
    keep_best: bool = Field(
        False, description="Keep the weights of the best evaluation in the middle of a phase (each one is saved first)."
    )

    @property
    def ranked_by(self) -> str:
        """The metric that tells the best policy."""
        return self.best_by or f"avg@{self.samples}"
