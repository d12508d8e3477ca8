"""Files and directories that are whole or absent: written beside their place, made durable, then renamed."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NotWritten(OSError):
    """A directory could not be written, as when its disk is full. What was there before is whole."""


@contextmanager
def atomic_directory(final: Path) -> Iterator[Path]:
    """Yield an empty directory to fill; when the block ends well it becomes `final`, else it is removed.

    An older `final` is replaced. What a killed process left half-written is removed by the next writer. Raises
    `NotWritten` when the disk refuses it.
    """
    draft = draft_of(final)
    clear_draft(final)
    draft.mkdir(parents=True)
    try:
        yield draft
        put_in_place(final)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        free = shutil.disk_usage(final.parent).free
        raise NotWritten(
            f"{final} could not be written ({error}): {free:,} bytes are free there; make room and resume"
        ) from error
    finally:
        clear_draft(final)


def draft_of(final: Path) -> Path:
    """Where a directory is written that will become `final`: beside it."""
    return final.with_name(f".{final.name}.draft")


def clear_draft(final: Path) -> None:
    """Remove what was begun and will not become `final`, if there is anything."""
    shutil.rmtree(draft_of(final), ignore_errors=True)


def put_in_place(final: Path) -> None:
    """The draft, complete, becomes `final`, durably. An older `final` is moved aside first, and removed after."""
    draft, aside = draft_of(final), final.with_name(f".{final.name}.old")
    make_durable(draft)
    if final.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(final, aside)
    os.rename(draft, final)
    _sync(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


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
