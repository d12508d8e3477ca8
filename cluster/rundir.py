"""The run directory: what lies where, how it comes to be, what a person finds in it.

It is created only after the preflight passed, and appears whole: an earlier refusal leaves nothing behind.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from actors.records import BufferStatus, EvalRow, RunStatus
from cluster.config import RunConfig, may_change
from cluster.fields import as_yaml
from cluster.invocation import rloop
from cluster.settings import Refused, load
from rollout.storage import LocalDisk

_COPIES = "working_dir_files"
"""Where Ray puts the working directories of jobs."""

CONTENTS = {
    "config.yaml": "the resolved configuration; a recipe that runs again",
    "results.md": "the tables of evaluations in Markdown",
    "manifest.json": "what is committed: phases, weights and their hashes, evaluations",
    "metrics.jsonl": "one line of numbers per optimizer step and evaluation",
    "status.json": "the last picture of the live view",
    "tensorboard": "event files for TensorBoard",
    "skipped_rows.txt": "what is wrong with the data rows that were left out",
    "materials.json": "where the run's model and demonstrations come from",
    "journal": "every finished answer with its verdict and fate",
    "experts": "the expert set of each iteration (Parquet)",
    "checkpoints": "weights by name; hf/ in each loads in transformers and vLLM",
    "logs": "what each process wrote",
}


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one run."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.yaml"

    @property
    def status(self) -> Path:
        """The newest `RunStatus`."""
        return self.root / "status.json"

    @property
    def results(self) -> Path:
        """The tables of evaluations, for a README."""
        return self.root / "results.md"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.root / "logs"

    def create(self, config: RunConfig) -> None:
        """Make the directory with its configuration, in one rename.

        Raises:
            FileExistsError: When it is already there.
        """
        draft = self.root.with_name(f".{self.root.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700, parents=True)  # prompts and answers are nobody else's
        (draft / "logs").mkdir()
        (draft / "config.yaml").write_text(as_yaml(config), encoding="utf-8")
        if self.root.exists():
            shutil.rmtree(draft)
            raise FileExistsError(self.root)
        draft.rename(self.root)

    def record(self, config: RunConfig) -> None:
        """Keep what a resume was allowed to change, so that the next one goes on with it."""
        LocalDisk(self.root).replace(self.config.name, as_yaml(config).encode())

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Hold the run for this process; the kernel lets go of it when the process ends, however it ends.

        Raises:
            Refused: When another process holds it.
        """
        with (self.root / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused([f"{self.root}: another rloop is at work on this run; wait for it or stop it"]) from None
            yield

    def write_status(self, status: RunStatus) -> None:
        """Replace `status.json` atomically: a reader sees the old picture or the new one."""
        draft = self.status.with_suffix(".tmp")  # twice a second: atomic, and no fsync
        draft.write_text(json.dumps(asdict(status)), encoding="utf-8")
        os.replace(draft, self.status)

    def read_status(self) -> RunStatus | None:
        """The last picture, or None before there is one."""
        if not self.status.exists():
            return None
        fields = json.loads(self.status.read_text(encoding="utf-8"))
        buffer, evals = BufferStatus(**fields.pop("buffer")), tuple(EvalRow(**row) for row in fields.pop("evals"))
        return RunStatus(**fields, buffer=buffer, evals=evals)

    def contents(self) -> list[tuple[str, str]]:
        """(path, what it is) of everything that exists in the directory."""
        return [(str(self.root / name), what) for name, what in CONTENTS.items() if (self.root / name).exists()]

    def model(self, row: EvalRow) -> Path | None:
        """The Hugging Face directory of evaluated weights, when it was exported."""
        path = self.root / "checkpoints" / row.weights / "hf"
        return path if path.exists() else None


def run_dir_problems(run_dir: Path, resume: bool) -> list[str]:
    """What is wrong with a run's directory, on the machine where it is."""
    if resume:
        missing = not RunDir(run_dir).config.exists()
        return [f"{run_dir}: no run to resume; leave --resume out to start it"] if missing else []
    if run_dir.exists():
        free = next(n for i in range(2, 10_000) if not (run_dir.parent / (n := f"{run_dir.name}-{i}")).exists())
        return [
            f"{run_dir}: a run of this name exists; go on with it: {rloop()} resume {run_dir}, or start another: "
            f"--name {free}"
        ]
    if _COPIES in run_dir.absolute().parts:
        return [
            f"cluster.runs_dir: {run_dir.absolute().parent} is in the job's copy of its working directory, which Ray "
            "deletes; name an absolute one that every node sees, e.g. cluster.runs_dir=/mnt/runs"
        ]
    parent = next(p for p in run_dir.absolute().parents if p.exists())
    return [] if parent.is_dir() else [f"cluster.runs_dir: {parent} is a file; name a directory"]


def saved_config(run_dir: Path, overrides: list[str]) -> RunConfig:
    """The configuration of a run to be resumed, with overrides that leave its computation alone.

    Raises:
        Refused: When this is no run directory, or an override changes what must not change.
    """
    saved = RunDir(run_dir).config
    if not saved.exists():
        raise Refused(
            [f"{run_dir}: not a run directory (no config.yaml); name one below runs/, or start one: rloop train"]
        )
    config = load(saved, overrides)
    if problems := changed(load(saved), config):
        raise Refused(problems)
    return config


def changed(before: RunConfig, after: RunConfig) -> list[str]:
    """A sentence per key that a resumed run would change and must not."""
    old = before.flat()
    return [
        f"{key} must stay as it was in a resumed run, got {value!r} instead of {old[key]!r}; leave it out, or start "
        "a new run with --name"
        for key, value in after.flat().items()
        if value != old[key] and not may_change(key)
    ]
