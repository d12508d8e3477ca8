"""How this command is called here: what people can paste after reading it."""

import shutil
import sys
from pathlib import Path


def rloop() -> str:
    """`rloop` where the shell finds it, else the path it was started by."""
    started = Path(sys.argv[0])
    if shutil.which("rloop") or started.name != "rloop":
        return "rloop"
    return str(started.relative_to(Path.cwd()) if started.is_relative_to(Path.cwd()) else started)


def installed() -> str:
    """For a process: the full path of `rloop` in this environment, whatever PATH that process has."""
    script = Path(sys.executable).with_name("rloop")
    return str(script) if script.exists() else "rloop"
