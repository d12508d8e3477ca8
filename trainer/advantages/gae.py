"""Generalised advantage estimation, for PPO with a critic."""

from dataclasses import dataclass

import numpy as np

from trainer.advantages.inputs import AdvantageInputs, Advantages, scatter
from trainer.advantages.returns import discounted_sums, token_rewards
from trainer.advantages.whitening import whiten


@dataclass(frozen=True, slots=True)
class GAE:
    """A_t = Σ_l (γλ)^l δ_{t+l} with δ_t = r_t + γ V_{t+1} - V_t (1506.02438, eq. 16).

    Time is counted in loss tokens: what tools wrote in between takes no time. The reward comes with the last loss
    token, after which V = 0.
    """

    gamma: float = 1.0
    """Discount of later rewards."""
    lam: float = 1.0
    """λ: 1 is returns minus values (no bias), 0 one step ahead (least variance)."""
    whiten: bool = True
    """Whether advantages (never returns) are whitened over the batch's loss tokens."""

    def __call__(self, inputs: AdvantageInputs) -> Advantages:
        """Advantages, and A + V before whitening as the critic's returns. Needs `values`."""
        assert inputs.values is not None
        lengths_S = inputs.loss_lengths
        values_M = inputs.values[inputs.mask].astype(np.float64)
        following_M = np.append(values_M[1:], 0.0)
        following_M[np.cumsum(lengths_S)[lengths_S > 0] - 1] = 0.0
        deltas_M = token_rewards(inputs, inputs.rewards) + self.gamma * following_M - values_M
        advantages_M = discounted_sums(deltas_M, lengths_S, self.gamma * self.lam)
        tokens_M = whiten(advantages_M) if self.whiten else advantages_M
        return Advantages(scatter(tokens_M, inputs.mask), scatter(advantages_M + values_M, inputs.mask))
