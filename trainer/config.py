"""The `model`, `trainer` and `schedule` sections of a run file."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

LOGIT_SETTINGS = {"final_logit_softcapping": None, "logit_scale": 1, "logits_scaling": 1}
"""What in a model's config.json changes logits after the output head, with the values that change nothing."""


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
    attention: Literal["auto", "flash_attention_2", "sdpa"] = Field(
        "auto", description="`auto` takes flash-attention where it imports and a GPU is there, else sdpa."
    )


class OptimConfig(BaseModel):
    """Optimizer settings of one kind of phase."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: float = Field(1e-6, gt=0, description="Peak learning rate (AdamW).")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up from 0.")
    decay: Literal["constant", "linear", "cosine"] = Field("constant", description="Shape after the warm-up.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay on matrices.")


class RLConfig(BaseModel):
    """The loss of RL phases: GRPO advantages, DAPO clipping, token-level truncated importance sampling."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clip_low: float = Field(0.2, ge=0, lt=1, description="PPO clip below: ratio >= 1 - clip_low (1707.06347).")
    clip_high: float = Field(0.28, ge=0, description="PPO clip above: ratio <= 1 + clip_high (DAPO 2503.14476).")
    tis_cap: float = Field(
        2.0, ge=1, description="Cap of the learner/engine importance weight per token (truncated IS)."
    )
    normalize_std: bool = Field(True, description="Divide group advantages by their standard deviation (GRPO).")
    minibatches: int = Field(1, ge=1, description="Optimizer updates per batch of rollouts.")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="Optimizer of RL phases.")


class SFTConfig(BaseModel):
    """Supervised phases (warm-up and RFT): token-mean negative log-likelihood of given answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: int = Field(64, ge=1, description="Sequences per optimizer step.")
    epochs: float = Field(1.0, gt=0, description="Passes over the data.")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="Optimizer of this phase.")


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
        description="Tokens (padding included) per forward pass and rank; bounds activation memory.",
    )
    max_grad_norm: float = Field(1.0, gt=0, description="Gradient norm over the whole model is clipped to this.")
    rl: RLConfig = Field(default_factory=RLConfig, description="RL phases.")
    rft: SFTConfig = Field(default_factory=SFTConfig, description="RFT phases.")
    warmup: SFTConfig = Field(default_factory=SFTConfig, description="Supervised warm-up of a model made from scratch.")


class ScheduleConfig(BaseModel):
    """The RLoop schedule: iterations of an RL phase and RFT of that phase's starting policy (2511.04285)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    iterations: int = Field(2, ge=1, description="RLoop iterations (N).")
    rl_steps: int = Field(50, ge=1, description="Optimizer steps per RL phase (T).")
    tau_hard: float = Field(
        1.0, gt=0, le=1, description="Keep successes of problems solved at most this often in the phase."
    )
    max_per_prompt: int = Field(16, ge=1, description="Expert answers per problem at most (K).")
    min_experts: int = Field(
        8, ge=1, description="With fewer expert answers RFT is skipped and the starting policy kept."
    )
    warmup_demos: int = Field(
        0, ge=0, description="Demonstrations for a supervised warm-up of a scratch model; 0 for none."
    )
