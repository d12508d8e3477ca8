"""Saves that are hurt, run as a process by test_checkpoint_writer.py, which reads what became of them as JSON.

Usage: python hurt_saves.py killed|limit|tmpfs MODEL_DIR FOLDER
"""

import ctypes
import itertools
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from two_ranks import state_hash

from trainer.config import OptimConfig, TrainerConfig
from trainer.directories import NotWritten
from trainer.learner import LearnerRank
from trainer.rendezvous import free_port

KILLS = 8
OPTIM = OptimConfig()


def make(model_dir: Path) -> LearnerRank:
    learner = LearnerRank(0, 1, model_dir, TrainerConfig(compute_dtype="float32"))
    learner.connect("127.0.0.1", free_port(), 60)
    learner.begin_phase(None, OPTIM, 10)
    return learner


def change(learner: LearnerRank) -> None:
    for shard in learner.policy.shards().values():
        shard.data += 1
    for _, key, moment in learner.optimizer.moments():
        if key == "exp_avg":
            moment += 1


# -- SIGKILL ------------------------------------------------------------------------------------------------------


def killed(model_dir: Path, folder: Path) -> dict[str, Any]:
    """Kill a process that saves and saves, at random moments; then load everything that goes by a whole name."""
    draw = random.Random(0)
    wanted: dict[Path, str] = {}
    for trial in range(KILLS):
        hashes = kill_once(model_dir, folder / str(trial), 3 * draw.random())
        wanted |= {folder / str(trial) / name: digest for name, digest in hashes.items()}
    learner, found = make(model_dir), [path for path in wanted if path.exists()]
    differ = []
    for path in found:
        learner.resume(str(path), None, OPTIM, 10)
        if state_hash(learner) != wanted[path]:
            differ.append(str(path))
    first = sum(path.name == "step-0" for path in found)
    drafts = sum(1 for _ in folder.glob("*/.*.draft"))
    learner.close()
    return {"first": first, "found": len(found), "drafts": drafts, "differ": differ}


def kill_once(model_dir: Path, folder: Path, after: float) -> dict[str, str]:
    """What the victim wanted to save, by name. After its first save it lives `after` times as long as that took."""
    read, write = os.pipe()
    victim = os.fork()  # torch and transformers are imported once for all of them
    if victim == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        os.close(read)
        save_for_ever(model_dir, folder, os.fdopen(write, "w", buffering=1))
    os.close(write)
    with os.fdopen(read) as told:
        lines = [told.readline()]
        began = time.monotonic()
        lines.append(told.readline())  # the first save is durable
        time.sleep(after * (time.monotonic() - began))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        lines += told.readlines()
    pairs = (line.split() for line in lines if line.endswith("\n"))
    return {name: digest for name, digest in pairs if name != "durable"}


def save_for_ever(model_dir: Path, folder: Path, tell: Any) -> None:
    learner = make(model_dir)
    for number in itertools.count():
        print(f"step-{number} {state_hash(learner)}", file=tell)
        learner.save(str(folder / f"step-{number}"), optimizer=True)
        change(learner)
        learner.saved(60)
        print("durable now", file=tell)


# -- a full disk --------------------------------------------------------------------------------------------------


def full(room: Callable[[Path], tuple[Callable[[], Any], Callable[[], Any]]], model_dir: Path, folder: Path) -> Any:
    """Save, fill the disk, fail to save, make room, save again; then load the first."""
    fill, make_room = room(folder)
    learner = make(model_dir)
    learner.save(str(folder / "before"), optimizer=True)
    learner.saved(60)
    before = state_hash(learner)
    change(learner)
    fill()
    learner.save(str(folder / "after"), optimizer=True)
    message = ""
    try:
        learner.saved(60)
    except NotWritten as error:
        message = str(error)
    left = sorted(path.name for path in folder.iterdir() if path.is_dir())
    make_room()
    after = state_hash(learner)
    learner.save(str(folder / "after"), optimizer=True)
    learner.saved(60)
    learner.resume(str(folder / "before"), None, OPTIM, 10)
    same = state_hash(learner) == before
    learner.resume(str(folder / "after"), None, OPTIM, 10)
    report = {"message": message, "left": left, "same": same, "after": state_hash(learner) == after}
    learner.close()
    return report


def limit(folder: Path) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """No file may be larger than some bytes: writes fail half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    return (
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard)),
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)),
    )


def tmpfs(folder: Path) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A disk of one MiB, which only this process sees. Exits with 77 where that is not permitted."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, private = 0x20000, 0x44000  # CLONE_NEWNS, MS_REC | MS_PRIVATE
    if (
        libc.unshare(new_mounts)
        or libc.mount(None, b"/", None, private, None)
        or libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=1m")
    ):
        sys.exit(77)
    filler = folder / "filler"
    return lambda: filler.write_bytes(bytes(600_000)), filler.unlink


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: die with the test
    torch.set_num_threads(1)
    where = Path(sys.argv[2]), Path(sys.argv[3])
    print(json.dumps(killed(*where) if sys.argv[1] == "killed" else full(globals()[sys.argv[1]], *where)))
