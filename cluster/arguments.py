"""What several commands take on the command line, and the run that it describes."""

import os
from pathlib import Path
from typing import Annotated

import typer

from cluster.config import RunConfig
from cluster.settings import load

Recipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML run file, e.g. recipes/demo.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[section.key=value | OVERLAY.yaml]...", help="Changes to the recipe; later wins."),
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the run and its directory (cluster.name).")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run of this name instead of starting it.")]


def named_run(recipe: Path, overrides: list[str] | None, name: str | None) -> RunConfig:
    """The run of a recipe, under another name if one is given; raises `Refused` as `load` does."""
    named = [f"cluster.name={name}"] if name else []
    return load(recipe, [*(overrides or []), *named], os.environ)
