"""The `actors` section of a run file: how many of each, and how long they wait for one another."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ActorsConfig(BaseModel):
    """Processes and deadlines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rollout_workers: int = Field(1, ge=1, le=4096, description="Rollout workers, one engine each, at least.")
    max_rollout_workers: int | None = Field(
        None, ge=1, le=4096, description="More join up to so many, as the cluster has room; null: no more."
    )
    restarts: int = Field(
        10, ge=0, description="Process failures, of all kinds together, that are mended before the run gives up."
    )
    suspect_s: float = Field(
        10.0, gt=0, description="Seconds of silence after which a rollout worker's groups are given to others."
    )
    silent_s: float = Field(
        30.0, gt=0, description="Seconds of silence after which a process is killed and started again."
    )
    start_timeout_s: float = Field(300.0, gt=0, description="Seconds an actor may take to come up.")
    call_timeout_s: float = Field(120.0, gt=0, description="Seconds one actor may wait for another's answer.")
    transfer_timeout_s: float = Field(
        600.0,
        gt=0,
        description="Seconds one version of the weights may take to reach an engine (η = 0: raise stall_s too).",
    )
    learner_timeout_s: float = Field(
        600.0, gt=0, description="Seconds one learner call (a step, a checkpoint) may take."
    )
    stall_s: float = Field(
        120.0, gt=0, description="Seconds without any progress after which the run says who waits for whom, and acts."
    )
    on_stall: Literal["restart", "abort"] = Field(
        "restart", description="What is done then: restart what is silent (or the learning side), or end the run."
    )
    lease_timeout_s: float = Field(
        120.0, gt=0, description="Seconds a leased group may take before it is leased again."
    )
    checkpoint_every_s: float = Field(
        30.0,
        gt=0,
        description="Seconds of training a crash may cost, beside the writing of a checkpoint; phases end with one.",
    )
    stop_timeout_s: float = Field(
        60.0, gt=0, description="Seconds a run that is asked to stop may take to write a last checkpoint."
    )
    overlap_sync: bool = Field(
        True, description="Begin the next training step while the engines still take the weights of the last."
    )
    weight_transport: Literal["auto", "shared_memory", "tcp", "nccl", "ipc"] = Field(
        "auto",
        description="How weights reach engines; auto: shared memory within a host, TCP between; nccl and ipc: untried.",
    )
    probe_tolerance: float = Field(
        1e-3,
        gt=0,
        description="Largest |log-prob| difference between engine and learner after a weight sync.",
    )

    @model_validator(mode="after")
    def _no_fewer_at_most(self) -> Self:
        if self.max_rollout_workers is not None and self.max_rollout_workers < self.rollout_workers:
            raise ValueError(
                f"actors.max_rollout_workers must be at least actors.rollout_workers={self.rollout_workers}, got "
                f"{self.max_rollout_workers}"
            )
        return self

    @model_validator(mode="after")
    def _suspicion_comes_first(self) -> Self:
        if self.suspect_s >= self.silent_s:
            raise ValueError(
                f"actors.suspect_s must be less than actors.silent_s, got {self.suspect_s:g} and {self.silent_s:g}"
            )
        return self
