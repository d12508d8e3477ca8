"""The advantages that are chosen by name alone."""

from trainer.advantages.group_relative import dr_grpo, grpo, grpo_population, rloo
from trainer.advantages.inputs import AdvantageFn
from trainer.advantages.reinforce import lite_ppo, reinforce, reinforce_pp, reinforce_pp_baseline

ADVANTAGES: dict[str, AdvantageFn] = {
    "grpo": grpo,
    "grpo_population": grpo_population,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce": reinforce,
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": reinforce_pp_baseline,
    "lite_ppo": lite_ppo,
}

ADVANTAGE_NAMES = (*ADVANTAGES, "gae")
"""Advantages that need no import path; GAE has settings of its own."""

TOKEN_REWARDS = ("reinforce_pp", "gae")
"""Those of them that are made of rewards per token, from which a KL can be taken."""
