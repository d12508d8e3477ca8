"""The choices that losses offer by name. Loads nothing, so that config sections can use them."""

from typing import Literal

Need = Literal["reference", "values", "entropy_gradient"]
"""What a term asks of the forward pass beyond log-probs: a reference model, a critic, entropies with gradient."""

Reduction = Literal["token_mean", "sequence_mean", "sequence_sum", "constant"]
"""How losses per token become one number; see `trainer.losses.reduction`."""

ImportanceMode = Literal["none", "tis", "icepop", "sequence_tis", "sequence_mask", "geometric_mask"]
"""How the weights for off-policy tokens are bounded; see `trainer.losses.importance`."""

KLEstimator = Literal["k1", "k2", "k3"]
"""Estimators of a KL divergence from one sample; see `trainer.losses.kl`."""

LOSS_NAMES = ("ppo", "gspo", "cispo", "reinforce")
"""Losses of the policy that need no import path."""
