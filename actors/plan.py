"""What the controller is told once, at its start."""

from dataclasses import dataclass

from rollout.config import EvalConfig
from trainer.config import GuardConfig, OptimConfig, RFTConfig, ScheduleConfig, SFTConfig
from trainer.guard import Guard
from trainer.phases import PhaseKind


@dataclass(frozen=True, slots=True)
class Plan:
    """What the controller needs to know of the configuration."""

    schedule: ScheduleConfig
    rl: OptimConfig
    rft: RFTConfig
    warmup: SFTConfig
    eval: EvalConfig
    warmup_dataset: str
    """Demonstrations for the warm-up (a supervised Parquet file); empty when there is none."""
    base_cache: str
    """Where the base policy made by the warm-up is kept for the next run; empty for nowhere."""
    seed: int
    stall_s: float
    """Seconds without any progress of the buffer after which the run gives up, saying what it waited for."""
    checkpoint_every_s: float
    keep_checkpoints: int
    """Checkpoints of steps that stay while a phase is under way."""
    save_timeout_s: float
    """Seconds a checkpoint may take to become durable once the run waits for it."""
    max_staleness: float
    """η at the start of an RL phase."""
    groups_per_step: int
    """B: groups of a step."""
    guard: GuardConfig
    config_digest: str
    overlap_sync: bool = True
    """Begin the next step while the engines still take the weights of the last."""

    def sft(self, kind: PhaseKind) -> SFTConfig:
        """Settings of a supervised phase."""
        return self.warmup if kind == "warmup" else self.rft

    def optim(self, kind: PhaseKind) -> OptimConfig:
        """The optimizer of a phase."""
        return self.sft(kind).optim if kind in ("warmup", "rft") else self.rl

    def guard_of(self, kind: PhaseKind) -> Guard:
        """The stability guard of a phase."""
        return Guard(self.guard, kind, self.max_staleness)
