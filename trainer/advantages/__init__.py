"""Advantages per token from rewards per sequence: pure NumPy, one family per file; nothing about models."""
