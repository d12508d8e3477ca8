"""The `model`, `trainer` and `schedule` sections of a run file."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from trainer.losses.options import ImportanceMode, KLEstimator, Reduction


class ScratchConfig(BaseModel):
    """A tiny model made from nothing, for demos and tests (Qwen3 architecture, tied embeddings)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokenizer: Literal["countdown", "bytes"] = Field(
        "countdown", description="`countdown`: digits and signs; `bytes`: any text, with a chat template."
    )
    hidden_size: int = Field(96, ge=8, description="Width of the residual stream.")
    num_layers: int = Field(4, ge=1, description="Transformer blocks.")
    num_heads: int = Field(4, ge=1, description="Attention heads.")
    num_kv_heads: int = Field(2, ge=1, description="Key/value heads; divides `num_heads`.")
    head_dim: int = Field(32, ge=32, multiple_of=32, description="Width of one head; the CPU engine takes 32, 64, 96…")
    intermediate_size: int = Field(256, ge=8, description="Width of the MLP.")


class ModelConfig(BaseModel):
    """Which model is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path | None = Field(
        None, description="Hugging Face model directory (weights and tokenizer); null makes `scratch`."
    )
    scratch: ScratchConfig = Field(default_factory=ScratchConfig, description="The model made when `path` is null.")
    attention: Literal["auto", "flash_attention_2", "varlen", "sdpa"] = Field(
        "auto", description="`auto`: on GPUs flash-attn where it is installed, else PyTorch's varlen; elsewhere sdpa."
    )


class OptimConfig(BaseModel):
    """Optimizer settings of one kind of phase."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="`adamw_8bit` (torchao, GPUs only) keeps the moments in 2 bytes per parameter, not 8."
    )
    lr: float = Field(1e-6, gt=0, description="Peak learning rate.")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up from 0.")
    decay: Literal["constant", "linear", "cosine"] = Field("constant", description="Shape after the warm-up.")
    min_lr_frac: float = Field(0.0, ge=0, le=1, description="Where the decay ends, as a share of `lr`.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay on matrices.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Decay of the second moment.")
    epsilon: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")


class ImportanceConfig(BaseModel):
    """Weights of tokens that other weights sampled: older ones, or the same in the engine's arithmetic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: ImportanceMode = Field(
        "tis", description="`…tis` caps the ratio, `icepop` and `…mask` drop what is outside [floor, cap]."
    )
    cap: float = Field(2.0, ge=1, description="Highest weight of a token (or sequence).")
    floor: float = Field(0.0, ge=0, le=1, description="Lowest weight that is not dropped, in the modes that drop.")
    veto: float = Field(0.0, ge=0, lt=1, description="Drop sequences with any token ratio below this; 0 drops none.")


class KLConfig(BaseModel):
    """Distance to the reference: the policy that the phase started from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(0.0, ge=0, description="Coefficient; 0 keeps no reference (DAPO).")
    estimator: KLEstimator = Field("k2", description="As a loss: `k2` has the divergence's gradient, `k3` is GRPO's.")
    in_reward: bool = Field(False, description="Take it off the rewards (`k1`, PPO, REINFORCE++), not into the loss.")


class CriticConfig(BaseModel):
    """The critic of `advantage: gae`: a value head on the policy's last hidden state."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(0.5, ge=0, description="Coefficient of the value loss.")
    gamma: float = Field(1.0, gt=0, le=1, description="Discount per token.")
    lam: float = Field(1.0, ge=0, le=1, description="GAE's λ: 1 has no bias, 0 least variance (1506.02438).")
    clip: float = Field(0.2, gt=0, description="Values move at most so far from those before the batch.")


class RLConfig(BaseModel):
    """The loss of RL phases; by default GRPO advantages, DAPO clipping and mean, truncated importance sampling."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    advantage: str = Field(
        "grpo",
        description="`grpo`, `grpo_population`, `dr_grpo`, `rloo`, `reinforce…`, `lite_ppo`, `gae`, or 'module:name'.",
    )
    loss: str = Field("ppo", description="`ppo`, `gspo`, `cispo`, `reinforce`, or your own 'package.module:name'.")
    clip_low: float = Field(0.2, ge=0, le=1, description="PPO clip below: ratio >= 1 - clip_low (1707.06347).")
    clip_high: float = Field(0.28, ge=0, description="PPO clip above: ratio <= 1 + clip_high (DAPO 2503.14476).")
    dual_clip: float | None = Field(None, gt=1, description="Bound of the ratio at negative advantages, e.g. 3.")
    reduction: Reduction = Field(
        "token_mean", description="From tokens to one loss; `constant` divides by rollout.max_new_tokens (Dr.GRPO)."
    )
    proximal: Literal["recompute", "loglinear", "linear"] = Field(
        "recompute", description="What ratios are relative to: the policy before the batch, or a mix with the sampler."
    )
    proximal_alpha: float = Field(0.5, ge=0, le=1, description="The policy's share in the mix.")
    importance: ImportanceConfig = Field(
        default_factory=ImportanceConfig, description="Weights of tokens that other weights sampled."
    )
    kl: KLConfig = Field(default_factory=KLConfig, description="Distance to the policy that the phase started from.")
    entropy_weight: float = Field(0.0, ge=0, description="Coefficient of the entropy bonus.")
    overlong_tokens: int = Field(
        0, ge=0, description="The last so many tokens before max_new_tokens cost reward (DAPO, eq. 13); 0: none."
    )
    critic: CriticConfig = Field(default_factory=CriticConfig, description="The critic of `advantage: gae`.")
    minibatches: int = Field(1, ge=1, description="Optimizer updates per batch of rollouts.")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="Optimizer of RL phases.")

    @property
    def has_critic(self) -> bool:
        """Whether values are learned."""
        return self.advantage == "gae"


class SFTConfig(BaseModel):
    """Supervised phases (warm-up and RFT): token-mean negative log-likelihood of given answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: int = Field(64, ge=1, description="Sequences per optimizer step.")
    epochs: float = Field(1.0, gt=0, description="Passes over the data.")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="Optimizer of this phase.")


class RFTConfig(SFTConfig):
    """RFT phases: supervised, on the expert set."""

    kl_weight: float = Field(
        0.0, ge=0, description="Coefficient of the squared distance (k2) to the policy that RFT starts from."
    )
    holdout_frac: float = Field(
        0.0, ge=0, lt=1, description="Share of the expert set's problems held out, to stop early; 0 trains on all."
    )
    check_every: int = Field(10, ge=1, description="Steps between looks at the held-out loss.")
    patience: int = Field(3, ge=1, description="Looks without a lower loss that end the phase, at its lowest.")


class LoraConfig(BaseModel):
    """Low-rank adapters: the model is frozen, and only they are trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(0, ge=0, description="Rank of the adapters; 0 trains the whole model.")
    alpha: float = Field(32.0, gt=0, description="The update is scaled by alpha / rank.")
    targets: tuple[str, ...] = Field(
        (),
        description="Modules with adapters, e.g. [q_proj, v_proj]; empty: all linear layers of the blocks, no experts.",
    )


class GuardConfig(BaseModel):
    """The stability guard: bands for the metrics of RL steps, and what may be done about a run that leaves them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mismatch_kl: float | None = Field(
        0.5, gt=0, description="Highest KL between engine and learner over the tokens of a step; null: any."
    )
    ess_frac: float | None = Field(
        0.1, gt=0, le=1, description="Lowest effective sample size of the importance weights, as a share; null: any."
    )
    clip_frac: float | None = Field(0.6, gt=0, le=1, description="Highest share of clipped tokens; null: any.")
    entropy: float | None = Field(None, gt=0, description="Lowest mean entropy of a token, in nats; null: any.")
    grad_norm: float | None = Field(
        50.0, gt=1, description="Highest gradient norm, as a multiple of the phase's running median; null: any."
    )
    patience: int = Field(3, ge=1, description="So many steps in a row outside, and the next measure is taken.")
    max_rollbacks: int = Field(2, ge=0, description="Rollbacks in a phase; after them the run stops.")


class TrainerConfig(BaseModel):
    """The learner group."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ranks: int = Field(1, ge=1, description="FSDP ranks, one process each.")
    compute_dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="Precision of forward and backward; master weights are always float32."
    )
    micro_batch_tokens: int = Field(
        8192,
        ge=16,
        description="Tokens per forward pass and rank; bounds activation memory.",
    )
    activation_checkpointing: bool = Field(
        False,
        description="Compute activations again in the backward pass: a third more work, a fraction of the memory.",
    )
    reshard_after_forward: bool | None = Field(
        None, description="Free gathered parameters between forward and backward; null: on GPUs."
    )
    cpu_offload: bool = Field(False, description="Keep shards and optimizer in host memory (GPUs).")
    fused_kernels: bool = Field(False, description="liger-kernel's fused layers, and its output head in SFT (GPUs).")
    lora: LoraConfig = Field(default_factory=LoraConfig, description="Low-rank adapters instead of all weights.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient norm over the whole model is clipped to this.")
    keep_checkpoints: int = Field(
        2, ge=1, description="Checkpoints of steps that stay in a phase; while one is written the disk holds one more."
    )
    guard: GuardConfig = Field(default_factory=GuardConfig, description="What is done about an unstable run.")
    rl: RLConfig = Field(default_factory=RLConfig, description="RL phases.")
    rft: RFTConfig = Field(default_factory=RFTConfig, description="RFT phases.")
    warmup: SFTConfig = Field(default_factory=SFTConfig, description="Supervised warm-up of a model made from scratch.")


class PhaseEndConfig(BaseModel):
    """What may end an RL phase before its steps are made; nothing does by default. Each signal is always a metric."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    forgetting: float | None = Field(
        None, gt=0, lt=1, description="End above this share of once solved training problems that fail now."
    )
    inter_step_diversity: float | None = Field(
        None, gt=0, lt=1, description="End below this distance between answers to one problem of two steps."
    )
    entropy: float | None = Field(None, gt=0, description="End below this mean entropy of a token, in nats.")
    overfit_gap: float | None = Field(
        None, ge=0, description="End when reward rose and held-out pass@k fell by more than this together."
    )
    overfit_metric: str | None = Field(
        None, description="Held-out metric of that gap, e.g. `harder/pass@8`; null: pass@k of all sets, the largest k."
    )
    patience: int = Field(3, ge=1, description="So many steps in a row beyond a bound end the phase.")
    min_steps: int = Field(10, ge=1, description="No phase ends before this step.")


class ScheduleConfig(BaseModel):
    """The phases of a run: by default iterations of RL and RFT of the policy that RL started from (2511.04285)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scheduler: str = Field(
        "rloop",
        description="`rloop`, `vanilla`, `rft-only`, `rl-then-rft-from-end`, `rloop-last-step-only`, `merge`, a path.",
    )
    iterations: int = Field(2, ge=1, description="RLoop iterations (N); `vanilla` has all their steps in one phase.")
    rl_steps: int = Field(50, ge=1, description="Optimizer steps per RL phase (T).")
    tau_hard: float = Field(
        1.0, gt=0, le=1, description="Keep successes of problems solved at most this often in the phase."
    )
    max_per_prompt: int = Field(16, ge=1, description="Expert answers per problem at most (K).")
    min_experts: int = Field(8, ge=1, description="With fewer expert answers RFT is skipped.")
    if_too_few: Literal["keep_start", "keep_rl"] = Field(
        "keep_start", description="The next policy when RFT is skipped: the one RL started from, or where RL ended."
    )
    merge_share: float = Field(0.5, gt=0, le=1, description="`merge`: share of RL's end in the average (WARP's η).")
    end: PhaseEndConfig = Field(default_factory=PhaseEndConfig, description="What ends an RL phase early.")
    warmup_demos: int = Field(
        0, ge=0, description="Demonstrations for a supervised warm-up of a scratch model; 0 for none."
    )
