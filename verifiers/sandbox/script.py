"""Runs in the jail: a whole program with its own standard input and output, as `python program.py` would."""

import atexit
import builtins
import io
import sys
import threading
import types
from pathlib import PurePath
from typing import Any

from verifiers.sandbox import channel

_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_STREAMS |= {f"{folder}/fd/{fd}": fd for fd in range(3) for folder in ("/dev", "/proc/self")}
"""What the system calls a program's streams; those links lead through /proc, which is not there."""
_open = open


def main() -> None:
    """Run it. It ends as a program ends: by its last line, an exception, or an exit."""
    source = channel.receive()["program"]
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    builtins.open = io.open = _open_stream  # type: ignore[assignment]
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    try:
        exec(compile(source, "program.py", "exec"), module.__dict__)
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
    finally:
        atexit._run_exitfuncs()


def _open_stream(file: Any, *args: Any, **kwargs: Any) -> Any:
    """`open`, which also knows the streams by their names."""
    fd = _STREAMS.get(str(file)) if isinstance(file, str | PurePath) else None
    return _open(file, *args, **kwargs) if fd is None else _open(fd, *args, **{**kwargs, "closefd": False})
