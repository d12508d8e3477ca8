"""The `actors` section of a run file: how many of each, and how long they wait for one another."""

from pydantic import BaseModel, ConfigDict, Field


class ActorsConfig(BaseModel):
    """Processes and deadlines."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rollout_workers: int = Field(1, ge=1, le=4096, description="Rollout workers, one engine each.")
    worker_restarts: int = Field(
        3, ge=0, description="Rollout workers that are replaced after their end before the run gives up."
    )
    start_timeout_s: float = Field(300.0, gt=0, description="Seconds an actor may take to come up.")
    call_timeout_s: float = Field(120.0, gt=0, description="Seconds one actor may wait for another's answer.")
    learner_timeout_s: float = Field(
        600.0, gt=0, description="Seconds one learner call (a step, a checkpoint) may take."
    )
    stall_s: float = Field(120.0, gt=0, description="Seconds without a finished group after which the run gives up.")
    lease_timeout_s: float = Field(
        120.0, gt=0, description="Seconds a leased group may take before it is leased again."
    )
    checkpoint_every_s: float = Field(
        30.0, gt=0, description="Seconds of training a crash may cost; phases always end with a checkpoint."
    )
    overlap_sync: bool = Field(
        True, description="Begin the next training step while the engines still take the weights of the last."
    )
    probe_tolerance: float = Field(
        1e-3,
        gt=0,
        description="Largest |log-prob| difference between engine and learner after a weight sync.",
    )
