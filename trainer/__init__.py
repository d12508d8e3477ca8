"""Learning: the policy, FSDP2, log-probs, advantages, losses, checkpoints and phases. No Ray, no vLLM."""
