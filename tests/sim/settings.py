"""What the run of a scenario is configured to do."""

from scenario import Scenario

from actors.plan import Plan
from rollout.config import EvalConfig, RolloutConfig
from trainer.config import GuardConfig, OptimConfig, RFTConfig, SFTConfig

GROUPS_PER_STEP = GROUP_SIZE = 2
MAX_NEW_TOKENS = 20
RUN_SEED = 7
STALL_S = 15.0


def rollout_config(scenario: Scenario) -> RolloutConfig:
    """Groups, staleness, admission."""
    return RolloutConfig(
        group_size=GROUP_SIZE,
        groups_per_step=GROUPS_PER_STEP,
        max_staleness=scenario.staleness,
        wait_for_late=scenario.seed % 3 == 0,
        oversample=scenario.oversample,
        max_concurrent=scenario.max_concurrent,
        report_every_s=1.0,
        max_new_tokens=MAX_NEW_TOKENS,
        context_length=64,
        drop_zero_variance=scenario.drop_zero_variance,
        max_failed_frac=1.0,
        max_attempts=1 + scenario.seed // 3 % 3,
        deterministic=scenario.deterministic,
    )


def plan(scenario: Scenario) -> Plan:
    """Phases and checkpoints."""
    optim, sft = OptimConfig(), SFTConfig(batch_size=2)
    rft = RFTConfig(batch_size=2, epochs=3, holdout_frac=scenario.holdout_frac, check_every=1, patience=1)
    return Plan(
        schedule=scenario.schedule,
        rl=optim,
        rft=rft,
        warmup=sft,
        eval=EvalConfig(samples=2, ks=(1,), every_steps=scenario.eval_every, overlap=scenario.eval_overlap),
        warmup_dataset="",
        base_cache="",
        seed=RUN_SEED,
        stall_s=STALL_S,
        checkpoint_every_s=scenario.checkpoint_every_s,
        keep_checkpoints=2,
        save_timeout_s=30.0,
        max_staleness=scenario.staleness,
        groups_per_step=GROUPS_PER_STEP,
        guard=GuardConfig(patience=1 + scenario.seed % 2, max_rollbacks=1000),
        config_digest="simulated",
        overlap_sync=scenario.staleness > 0,
    )
