"""Scoring: verifiers and the killable processes they run in. Knows nothing of engines, tensors or Ray."""
