"""Which files may be read: the interpreter's and the system's libraries. Nothing is written."""

import glob
import os
import struct
import sys
import sysconfig
from collections.abc import Iterator

from verifiers.sandbox import kernel

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # alike on every architecture
_VERSION = 1
_READ_FILE, _READ_DIR, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_RIGHTS = (13, 14, 15, 15, 16)  # how many rights over files each ABI version has; later ones have as many as the fifth
_TCP_ABI, _SCOPE_ABI = 4, 6
PROGRAMS = [path for path in ("/usr", "/bin", "/sbin", "/etc/alternatives") if os.path.exists(path)]
"""What a command may run besides; tier A alone shows these."""
SCRATCH = "/work"
"""Where a command's process may write; in tier A it is its own and goes with it."""
_EXECUTE = 1 << 0
_WAYS = ("", "*/", "lib/*/", "lib64/*/", "local/lib/*/", "local/lib64/*/")
_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")
_FILES = ("/dev/null", "/dev/zero", "/dev/urandom", "/etc/ld.so.cache", "/etc/localtime")


def readable() -> list[str]:
    """Folders and files that jailed code may read."""
    python = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")} | {os.path.join(sys.base_prefix, "lib")}
    return [path for path in (*sorted(python), *_SYSTEM, *_FILES) if path and os.path.exists(path)]


def installed(folder: str) -> list[str]:
    """Folders below it that hold what somebody installed: not Python's own, and perhaps data with answers in it."""
    patterns = (f"{folder}/{way}{name}" for way in _WAYS for name in ("site-packages", "dist-packages"))
    return sorted({path for pattern in patterns for path in glob.glob(pattern)})


def _without(folder: str, hidden: list[str]) -> Iterator[str]:
    """The folder in pieces, such that none has what is hidden."""
    if folder in hidden:
        return
    if not any(path.startswith(f"{folder}/") for path in hidden):
        yield folder
        return
    for entry in os.scandir(folder):
        if not entry.is_symlink():
            yield from _without(entry.path, hidden)
        elif os.path.exists(entry.path) and not any(_overlap(os.path.realpath(entry.path), path) for path in hidden):
            yield entry.path


def _overlap(one: str, other: str) -> bool:
    """Whether one of two paths lies in the other."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def ruleset(commands: bool = False) -> int:
    """A file descriptor that stands for the rules; costs a few dozen calls, so it is made once.

    Args:
        commands: Whether programs may be run, and the scratch folder written.

    Raises:
        OSError: When the kernel has no Landlock.
    """
    abi = kernel.syscall("landlock_create_ruleset", _CREATE, None, 0, _VERSION)
    files = (1 << _RIGHTS[min(abi, len(_RIGHTS)) - 1]) - 1
    handled = [files, 0b11 if abi >= _TCP_ABI else 0, 0b11 if abi >= _SCOPE_ABI else 0]  # scope: sockets, signals
    words = 3 if abi >= _SCOPE_ABI else 2 if abi >= _TCP_ABI else 1
    attributes = struct.pack(f"={words}Q", *handled[:words])
    rules = kernel.syscall("landlock_create_ruleset", _CREATE, attributes, len(attributes), 0)
    library = os.path.realpath(sysconfig.get_path("stdlib"))
    if not commands:
        _allow(rules, library, _READ_DIR)  # modules are found by listing it; that shows names below it, but no content
    for folder in {os.path.realpath(path) for path in readable()}:
        # for commands, tier A has laid empty folders over what is installed
        for path in [folder] if commands else _without(folder, installed(folder)):
            _allow(rules, path, (_READ_FILE | _READ_DIR) if os.path.isdir(path) else _READ_FILE)
    _allow(rules, "/dev/null", _READ_FILE | _WRITE_FILE)
    if commands:
        _allow(rules, SCRATCH, files)
        for path in (*PROGRAMS, *_SYSTEM):
            if os.path.exists(path):
                _allow(rules, path, _READ_FILE | _READ_DIR | _EXECUTE)
    return rules


def restrict(rules: int) -> None:
    """Shut this process in for good. Needs no_new_privs."""
    kernel.syscall("landlock_restrict_self", _RESTRICT, rules, 0)


def _allow(rules: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        kernel.syscall("landlock_add_rule", _ADD, rules, 1, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)
