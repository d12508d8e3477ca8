"""Our five top-level package names must be ours alone: another distribution may install the same name.

A known one installs a package `verifiers`; pip then overwrites files without a warning.
"""

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path

NAMES = ("actors", "cluster", "rollout", "trainer", "verifiers")
DISTRIBUTION = "rloop"


def collisions(owners: Mapping[str, list[str]], folders: Mapping[str, Path | None], home: Path) -> list[str]:
    """A sentence per name that another distribution provides or that resolves outside `home`."""
    sentences = []
    for name in NAMES:
        others = sorted({owner for owner in owners.get(name, []) if owner.lower() != DISTRIBUTION})
        if others:
            sentences.append(
                f"package {name!r} is also provided by the distribution {', '.join(others)}, and files of the two get "
                "mixed; install RLoop in an environment of its own (make setup)"
            )
        elif (folder := folders.get(name)) != home / name:
            sentences.append(
                f"package {name!r} resolves to {folder or 'nothing'} instead of {home / name}; start rloop elsewhere, "
                "clear PYTHONPATH, or install RLoop in an environment of its own (make setup)"
            )
    return sentences


def installed_collisions() -> list[str]:
    """The same for this process."""
    folders: dict[str, Path | None] = {}
    for name in NAMES:
        spec = importlib.util.find_spec(name)
        folders[name] = Path(spec.origin).resolve().parent if spec and spec.origin else None
    home = Path(__file__).resolve().parent.parent
    found = collisions(importlib.metadata.packages_distributions(), folders, home)
    return found or shadows(Path.cwd(), home)


def shadows(directory: Path, home: Path) -> list[str]:
    """A sentence per module in `directory` with one of our names: Ray puts the current directory before installed ones.

    Our own checkout is none; a folder without `__init__.py` shadows nothing.
    """
    if directory.resolve() == home:
        return []
    files = [file for name in NAMES for file in (directory / name / "__init__.py", directory / f"{name}.py")]
    return [
        f"{file} would be imported instead of RLoop's package in the run's processes; start rloop in another directory"
        for file in files
        if file.exists()
    ]
