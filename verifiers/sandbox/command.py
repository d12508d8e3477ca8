"""Runs in the jail: hands a program to another command, such as a compiler's shell line. Only tier A allows it."""

import os
import signal

from verifiers.sandbox import channel
from verifiers.sandbox.landlock import SCRATCH

_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": SCRATCH, "TMPDIR": SCRATCH, "LANG": "C.UTF-8"}


def main() -> None:
    """Write the program into the scratch folder and become the command. Says `{"broken": …}` when there is none."""
    task = channel.receive()
    path = f"{SCRATCH}/program"
    words = [word.replace("{program}", path) for word in task["command"]]
    try:
        with open(path, "w") as file:
            file.write(task["program"])
        os.set_inheritable(channel.CHILD_FD, False)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python, but not by what it becomes
            signal.signal(ignored, signal.SIG_DFL)
        os.execvpe(words[0], words, _ENVIRONMENT)
    except OSError as error:
        channel.send({"broken": f"the command {words[0]!r} cannot be run: {error}"})
