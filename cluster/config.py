"""The run configuration: one section per package, composed here. Nobody passes it down whole.

Says what a valid run is, field by field; where values come from is `cluster.settings`, what must hold between
sections is `cluster.rules`. Loads nothing heavy.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from actors.config import ActorsConfig
from rollout.config import DataConfig, EvalConfig, RolloutConfig
from trainer.config import ModelConfig, ScheduleConfig, TrainerConfig
from verifiers.config import VerifierConfig, VerifierSettings
from verifiers.spec import VerifierSpec


class ClusterConfig(BaseModel):
    """Where the run lives and what it runs on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        "run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the run and of its directory; the recipe's file name when unset.",
    )
    runs_dir: Path = Field(Path("runs"), description="Directory that holds run directories.")
    seed: int = Field(0, ge=0, description="Seed of everything random; each sample derives its own.")
    ray_address: str | None = Field(
        None, description="Ray cluster to join, e.g. `auto`; null starts one here (`auto` where RAY_ADDRESS is set)."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where engines and learner ranks compute; auto: on GPUs where the cluster has some."
    )
    layout: Literal["disaggregated", "colocated"] = Field(
        "disaggregated",
        description="Engines and learner ranks on GPUs of their own, or one of each on a GPU that they share.",
    )
    wait_for_nodes_s: float = Field(
        0.0, ge=0, description="Seconds to wait for room; Ray's autoscaler is asked for it. 0: refuse at once."
    )
    object_store_mb: int = Field(256, ge=80, description="Ray's object store in MiB, when one is started here.")
    sinks: tuple[str, ...] = Field(
        (),
        description="Where numbers go besides metrics.jsonl: tensorboard, wandb, mlflow, or package.module:name.",
    )
    project: str = Field("rloop", min_length=1, description="What runs are grouped by in wandb and mlflow.")
    dashboard: bool = Field(False, description="Start Ray's dashboard, when a cluster is started here.")


class RunConfig(BaseModel):
    """Everything a run is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelConfig = Field(default_factory=ModelConfig, description="Which model is trained.")
    data: DataConfig = Field(default_factory=DataConfig, description="Where problems come from.")
    rollout: RolloutConfig = Field(default_factory=RolloutConfig, description="How answers are generated.")
    verifier: VerifierConfig = Field(default_factory=VerifierConfig, description="How answers are scored.")
    trainer: TrainerConfig = Field(default_factory=TrainerConfig, description="The learner group.")
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig, description="The RLoop schedule.")
    eval: EvalConfig = Field(default_factory=EvalConfig, description="Held-out evaluation.")
    actors: ActorsConfig = Field(default_factory=ActorsConfig, description="Processes and deadlines.")
    cluster: ClusterConfig = Field(default_factory=ClusterConfig, description="Where the run lives.")

    @property
    def run_dir(self) -> Path:
        """Directory of this run."""
        return self.cluster.runs_dir / self.cluster.name

    def verifier_specs(self) -> dict[str, VerifierSpec]:
        """The verifiers of the run by the names that problems use, those that only data sets name included."""
        named = {one.verifier: VerifierSettings().spec(one.verifier) for one in self.data.sets() if one.verifier}
        return named | self.verifier.specs()

    def flat(self) -> dict[str, Any]:
        """Every value by its dotted key, as plain YAML values, in the order of the fields."""
        return flatten(self.model_dump(mode="json"))

    def digest(self) -> str:
        """sha256 of everything a resumed run must share with the run it continues."""
        fixed = {key: value for key, value in self.flat().items() if not may_change(key)}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()


# What a resumed run may change: how long it goes on, where it runs, on how much, and how patient it is; never what it
# computes, up to the rounding of another number of ranks.
MAY_CHANGE = (
    "schedule.iterations",
    "actors.",
    "cluster.",
    "verifier.processes",
    "verifier.pools",
    "verifier.max_pools",
    "data.check_gold",
    "data.gold_floor",
    "trainer.ranks",
    "trainer.micro_batch_tokens",
    "trainer.activation_checkpointing",
    "trainer.reshard_after_forward",
    "trainer.cpu_offload",
    "trainer.keep_checkpoints",
    "trainer.guard.",
    "rollout.max_concurrent",
    "rollout.engine.kv_cache_mb",
    "rollout.engine.max_num_seqs",
)
_MUST_STAY = ("cluster.seed",)


def may_change(key: str) -> bool:
    """Whether a resumed run may set `key` to another value than before."""
    return key.startswith(MAY_CHANGE) and key not in _MUST_STAY


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dicts by dotted key: `{"a": {"b": 1}}` gives `{"a.b": 1}`. A field that is a dict is a leaf."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and f"{prefix}{key}" not in _DICTS:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    return tree


def walk(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[tuple[str, FieldInfo, bool]]:
    """(dotted key, field, whether it is a section) of every field, sections before their fields."""
    for name, field in model.model_fields.items():
        section = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        yield f"{prefix}{name}", field, section
        if section:
            assert isinstance(field.annotation, type)
            yield from walk(field.annotation, f"{prefix}{name}.")


def _is_mapping(annotation: Any) -> bool:
    """A field whose value may be a mapping, and is no section: names with values, or a path with what goes with it."""
    return get_origin(annotation) is dict or any(
        isinstance(choice, type) and issubclass(choice, BaseModel) for choice in get_args(annotation)
    )


_DICTS = {key for key, field, _ in walk() if _is_mapping(field.annotation)}
