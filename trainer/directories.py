"""Files and directories that are whole or absent: written beside their place, made durable, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_directory(final: Path) -> Iterator[Path]:
    """Yield an empty directory to fill; when the block ends well it becomes `final`, else it is removed.

    An older `final` is replaced. What a killed process left half-written is removed by the next writer.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    draft = final.with_name(f".{final.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        make_durable(draft)
        if final.exists():
            shutil.rmtree(final)
        os.rename(draft, final)
        _sync(final.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def copy_directory(source: Path, target: Path) -> None:
    """Copy atomically; an existing target wins, also one that another run makes at this moment."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    shutil.copytree(source, scratch, dirs_exist_ok=True)
    try:
        scratch.rename(target)
    except OSError:
        shutil.rmtree(scratch)


def make_durable(directory: Path) -> None:
    """Flush every file below `directory`, and the directory itself, to the disk."""
    for path in sorted(directory.rglob("*")):
        _sync(path)
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
