"""The `data`, `rollout` and `eval` sections of a run file."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


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


class DataConfig(BaseModel):
    """Where problems come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Literal["file", "countdown"] = Field(
        "file", description="`file` reads `path`; `countdown` generates problems, nothing to download."
    )
    path: Path | None = Field(None, description="JSONL or Parquet file of training problems (task=file).")
    eval_path: Path | None = Field(
        None, description="Held-out problems; when unset, `eval_fraction` of `path` is held out."
    )
    eval_sets: dict[str, Path] = Field(
        default_factory=dict,
        description="Further held-out sets, e.g. `{aime: aime.jsonl}`; each is reported under its name.",
    )
    eval_fraction: float = Field(0.1, gt=0, lt=1, description="Share of `path` held out when `eval_path` is unset.")
    question_key: str = Field("question", description="Column that holds the problem.")
    answer_key: str = Field("answer", description="Column that holds the answer (GSM8K's `#### 72` is understood).")
    id_key: str = Field("id", description="Column that holds a unique id; the line number is used where absent.")
    tag_key: str | None = Field(
        None, description="Column that parts held-out problems into sets, e.g. `level`; null for none."
    )
    instruction: str = Field(
        "", description="Text put before every problem, e.g. how to mark the final answer; empty for none."
    )
    limit: int | None = Field(None, ge=1, description="Use only the first N training problems.")
    countdown: CountdownConfig = Field(default_factory=CountdownConfig, description="Settings of task=countdown.")


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
