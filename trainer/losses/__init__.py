"""Losses per token over packed sequences: pure functions of named tensors, one family per file."""
