"""What a job takes along to the cluster: the resolved recipe, and the user's modules that it names. Nothing else."""

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cluster.config import RunConfig
from cluster.fields import as_yaml
from cluster.settings import Refused

_PLUG_IN = re.compile(r"(?:(?:trl|verl|openrlhf):)?([A-Za-z_]\w*)(?:\.\w+)*:[A-Za-z_]\w*")
_LEFT_BEHIND = shutil.ignore_patterns("__pycache__", ".git", ".venv", "*.pyc")


def modules(config: RunConfig, here: Path) -> list[Path]:
    """Files and packages of directory `here` that the recipe names as `package.module:name`."""
    tops = {match[1] for text in _texts(config.flat()) if (match := _PLUG_IN.fullmatch(text))}
    found = [path for top in sorted(tops) for path in (here / f"{top}.py", here / top) if path.exists()]
    return list(dict.fromkeys(found))


def pack(config: RunConfig, also: Sequence[Path], here: Path, into: Path) -> str:
    """Fill a directory with what the job needs; returns the name of the recipe in it.

    Args:
        config: The run, as it shall be there.
        also: Further files and directories, inside `here`.
        here: The current directory: places in it are kept.
        into: An empty directory.

    Raises:
        Refused: When something is not there, or is not inside `here`.
    """
    recipe = f"{config.cluster.name}.yaml"
    problems = []
    for path in (*modules(config, here), *(here / one for one in also)):
        if not path.exists() or not path.resolve().is_relative_to(here.resolve()):
            problems.append(f"--with {path}: must be a file or directory inside {here}; go there, or copy it")
            continue
        target = into / path.resolve().relative_to(here.resolve())
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, ignore=_LEFT_BEHIND, dirs_exist_ok=True)
        else:
            shutil.copy(path, target)
    if problems:
        raise Refused(problems)
    (into / recipe).write_text(as_yaml(config), encoding="utf-8")
    return recipe


def _texts(value: Any) -> Iterator[str]:
    """Every text in nested values, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
