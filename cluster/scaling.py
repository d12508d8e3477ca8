"""`rloop scale RUN rollout=8`: tells a run under way how many workers it shall have, by a file in its directory."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.rundir import RunDir
from cluster.settings import Refused, load
from cluster.staffing import ROLES
from rollout.storage import LocalDisk

FILE = "scale.json"
_LIVE_S = 30.0
_OVER = ("finished", "interrupted", "failed")
_LOOK_EVERY_S = 0.5


def parse(assignments: Sequence[str]) -> dict[str, int]:
    """`["rollout=8"]` → `{"rollout": 8}`.

    Raises:
        Refused: When it names no role, or no number of at least 1.
    """
    wanted, problems = {}, []
    for text in assignments:
        role, _, number = text.partition("=")
        if role not in ROLES or not number.isdecimal() or int(number) < 1:
            problems.append(f"{text!r}: must be {' or '.join(f'{name}=NUMBER' for name in ROLES)}, at least 1")
        else:
            wanted[role] = int(number)
    if problems or not wanted:
        raise Refused(problems or [f"say how many, e.g. {ROLES[0]}=2"])
    return wanted


def ask(run_dir: Path, wanted: Mapping[str, int]) -> None:
    """Leave word for the run.

    Raises:
        Refused: When it is not under way, or cannot be so many.
    """
    file, status = RunDir(run_dir).status, RunDir(run_dir).read_status()
    if status is None or status.state in _OVER or time.time() - file.stat().st_mtime > _LIVE_S:
        raise Refused([f"{run_dir}: no run is under way there; its size at the start is actors.rollout_workers"])
    config = load(RunDir(run_dir).config)
    if config.cluster.layout == "colocated" and wanted.get("rollout", 0) > config.trainer.ranks:
        raise Refused(
            [
                f"rollout={wanted['rollout']}: there is a place beside each learner rank, and no other "
                f"(cluster.layout=colocated); ask for {config.trainer.ranks} or fewer"
            ]
        )
    LocalDisk(run_dir).replace(FILE, json.dumps(asked(run_dir) | dict(wanted)).encode())


def asked(run_dir: Path) -> dict[str, int]:
    """What people have asked for since the run was started."""
    file = run_dir / FILE
    return json.loads(file.read_text()) if file.exists() else {}


def forget(run_dir: Path) -> None:
    """A run starts as its configuration says."""
    (run_dir / FILE).unlink(missing_ok=True)


def wait(run_dir: Path, wanted: Mapping[str, int], patience_s: float) -> bool:
    """Print how the numbers come nearer; returns whether they are there in time, and before the run ends."""
    deadline, shown = time.monotonic() + patience_s, ""
    while True:
        status = RunDir(run_dir).read_status()
        if status and status.state in _OVER:
            print(f"the run is {status.state}")
            return False
        staff = status.staff if status else {}
        text = ", ".join(f"{role}: {staff.get(role, 0)} of {number}" for role, number in wanted.items())
        if text != shown:
            print(shown := text, flush=True)
        if all(staff.get(role) == number for role, number in wanted.items()):
            return True
        if time.monotonic() > deadline:
            print(f"not all there after {patience_s:g} s: no room, or they still come up; the run keeps asking")
            if status and status.message:
                print(status.message)
            return False
        time.sleep(_LOOK_EVERY_S)
