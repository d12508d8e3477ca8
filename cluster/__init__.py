"""Composition root: run configuration, launch, command line, checks before and views during a run."""
