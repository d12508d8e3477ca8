"""Outlives a driver by a moment, to end what a SIGKILL of the driver would leave behind.

Ray's own agents wait a minute for a control service that is gone before they exit. This process looks at the
driver's family once a second, and when the driver is gone, however it went, kills who is left of it.
"""

import contextlib
import os
import select
import subprocess
import sys

import psutil

_LOOK_EVERY_S = 1.0


def start() -> "subprocess.Popen[bytes]":
    """Watch this process from another one, from now on. It ends by itself, right after this one."""
    process = subprocess.Popen(
        [sys.executable, "-m", "actors.watchdog", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C in the terminal is for the driver, which stops in order
    )
    assert process.stdout is not None
    process.stdout.readline()  # its first look is done (or it died, and Ray's own minute has to do)
    process.stdout.close()
    return process


def watch(pid: int) -> None:
    """Remember the descendants of `pid` until it ends, then kill those that are still there."""
    family: dict[int, psutil.Process] = {}
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        driver, ended = psutil.Process(pid), os.pidfd_open(pid)

        def look() -> None:
            family.update({process.pid: process for process in driver.children(recursive=True)})

        look()
        print("watching", flush=True)
        while not select.select([ended], [], [], _LOOK_EVERY_S)[0]:
            look()
    for process in family.values():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid != os.getpid():
                process.kill()  # psutil refuses a pid that belongs to another process by now


if __name__ == "__main__":
    watch(int(sys.argv[1]))
