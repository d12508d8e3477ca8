"""Rollouts: records, prompts, engines, workflows, admission, the journal and what is asked of it."""
