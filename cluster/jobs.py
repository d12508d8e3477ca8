"""Runs as Ray jobs: submitted, followed, stopped. A job may outlive the terminal that submitted it.

A run has one job at a time. Its jobs are numbered in their names, and Ray takes a name only once: so two people who
submit the same run at the same moment, or a request that is sent twice, start it once.
"""

import asyncio
import shlex
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from cluster.config import RunConfig
from cluster.exits import Exit
from cluster.rundir import run_dir_problems
from cluster.settings import Refused
from cluster.upload import pack

State = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_STOP_WAIT, _JOB = "RAY_JOB_STOP_WAIT_TIME_S", "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What Ray reads for how long a job may take to stop, and what it sets in every job's driver."""
_KILLED_AFTER_S = 3.0  # by Ray, unless it is told otherwise
_RUN, _RUN_DIR = "rloop.run", "rloop.run_dir"
_ENDING_S = 20  # closing actors and processes after the last checkpoint
_SILENT_S = 60.0
_LOOK_EVERY_S = 1.0


class Unreachable(ConnectionError):
    """The cluster does not answer."""


@dataclass(frozen=True, slots=True)
class Job:
    """What Ray knows of one job."""

    id: str
    state: State
    metadata: Mapping[str, str]
    message: str = ""
    began_at: float = 0.0
    """Unix time."""
    ended_at: float | None = None
    exit_code: int | None = None

    @property
    def run(self) -> str | None:
        """Name of its run, if it is one of ours."""
        return self.metadata.get(_RUN)

    @property
    def run_dir(self) -> str:
        """Where its run lies on the cluster's disk."""
        return self.metadata.get(_RUN_DIR, "")

    @property
    def under_way(self) -> bool:
        """Whether it has yet to end."""
        return self.state in ("PENDING", "RUNNING")

    @property
    def exit(self) -> int:
        """The exit code of `rloop` in it; one that was stopped is interrupted, whatever became of its process."""
        if self.exit_code is not None:
            return self.exit_code
        return {"SUCCEEDED": Exit.DONE, "STOPPED": Exit.INTERRUPTED}.get(self.state, Exit.FAILED)


class Jobs(Protocol):
    """A cluster's jobs; `cluster.job_client.RayJobs` is the real one. What does not answer raises `Unreachable`."""

    is_here: bool
    """Whether the cluster's head is this machine: it sees the same files."""

    def submit(
        self, job_id: str, entrypoint: str, directory: Path, env: Mapping[str, str], metadata: Mapping[str, str]
    ) -> None:
        """Start a job in a copy of `directory`; refuses an id that was used before."""

    def all(self) -> list[Job]:
        """Every job since the cluster started, in any order."""

    def stop(self, job_id: str) -> None:
        """Ask a job to end; returns at once."""

    def log(self, job_id: str) -> str:
        """What it has printed."""

    def tail(self, job_id: str) -> AsyncIterator[str]:
        """The same from the beginning, and as it comes, until it ends."""


@dataclass(frozen=True, slots=True)
class Order:
    """What shall be run."""

    config: RunConfig
    rloop: str
    """The command on this machine, for a cluster that is this machine."""
    here: Path
    """The user's current directory."""
    also: Sequence[Path] = ()
    """Files and directories that the job takes along, besides the modules that the recipe names."""
    resume: bool = False


def submit(jobs: Jobs, order: Order) -> Job:
    """Start a run as a job.

    Raises:
        Refused: When it is under way already, or could not work there.
    """
    name = order.config.cluster.name
    known = jobs.all()
    if busy := [job for job in known if job.run == name and job.under_way]:
        raise Refused(
            [f"run {name!r} is under way as job {busy[0].id}; rloop logs {name} shows it, rloop stop {name} ends it"]
        )
    config = _as_there(order, jobs.is_here)
    if jobs.is_here and (problems := run_dir_problems(config.run_dir, order.resume)):
        raise Refused(problems)
    job_id = _next_id(known, name)
    with tempfile.TemporaryDirectory(prefix="rloop-job-") as directory:
        recipe = pack(config, order.also, order.here, Path(directory))
        command = [order.rloop if jobs.is_here else "rloop", "train", recipe, *(["--resume"] if order.resume else [])]
        jobs.submit(
            job_id,
            shlex.join(command),
            Path(directory),
            {_STOP_WAIT: str(_stop_wait(config))},
            {_RUN: name, _RUN_DIR: str(config.run_dir)},
        )
    return find(jobs, job_id)


def _stop_wait(config: RunConfig) -> int:
    """Seconds that a run needs to write a checkpoint and to close."""
    return round(config.actors.stop_timeout_s) + _ENDING_S


def killed_early(config: RunConfig, environ: Mapping[str, str]) -> str:
    """A sentence where this process is a Ray job that would be killed before it has written a checkpoint, else nothing.

    `rloop submit` gives a job the time that it needs; `ray job submit` does not know how long that is.
    """
    granted = float(environ.get(_STOP_WAIT) or _KILLED_AFTER_S)
    if _JOB not in environ or granted >= config.actors.stop_timeout_s:
        return ""
    return (
        f"Ray kills this job {granted:g} s after it is asked to stop, and a checkpoint may take actors.stop_timeout_s="
        f"{config.actors.stop_timeout_s:g}; submit it with rloop submit, or start the cluster with "
        f"{_STOP_WAIT}={_stop_wait(config)}"
    )


def run_command(jobs: Jobs, name: str, command: Sequence[str], rloop: str) -> Job:
    """Run another `rloop` command where the cluster is; `name` is part of the job's."""
    job_id = _next_id(jobs.all(), name)
    with tempfile.TemporaryDirectory(prefix="rloop-job-") as directory:
        entrypoint = shlex.join([rloop if jobs.is_here else "rloop", *command])
        jobs.submit(job_id, entrypoint, Path(directory), {}, {})
    return find(jobs, job_id)


def _next_id(known: Sequence[Job], name: str) -> str:
    """A name that no job has had, and that everybody who asks now is given."""
    prefix = f"rloop-{name}-"
    numbers = [int(rest) for job in known if (rest := job.id.removeprefix(prefix)).isdecimal()]
    return f"{prefix}{max(numbers, default=0) + 1}"


def _as_there(order: Order, is_here: bool) -> RunConfig:
    """The run as the job sees it: in the cluster, with a directory that stays when the job is over."""
    cluster = order.config.cluster
    runs_dir = cluster.runs_dir
    if not runs_dir.is_absolute():
        if not is_here:
            raise Refused(
                [
                    f"cluster.runs_dir must be absolute on another machine, got {str(runs_dir)!r}; name a directory "
                    "that every node of the cluster sees, e.g. cluster.runs_dir=/mnt/runs"
                ]
            )
        runs_dir = order.here / runs_dir
    there = cluster.model_copy(update={"runs_dir": runs_dir, "ray_address": "auto"})
    return order.config.model_copy(update={"cluster": there})


def find(jobs: Jobs, name: str) -> Job:
    """The newest job of a run, or the job of this id.

    Raises:
        Refused: When there is none.
    """
    known = jobs.all()
    found = [job for job in known if name in (job.id, job.run)]
    if not found:
        runs = sorted({job.run for job in known if job.run})
        what = f"there are {', '.join(runs)}" if runs else "there are none"
        raise Refused([f"no run or job is called {name!r} in this cluster; {what}"])
    return max(found, key=lambda job: job.began_at)


async def follow(
    jobs: Jobs, job_id: str, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic
) -> Job:
    """Write what a job prints, from its beginning, until it ends; a connection that breaks is made again.

    Raises:
        Unreachable: When the cluster has not answered for a minute.
    """
    shown, broken_at = 0, float("inf")
    while True:
        seen = 0
        try:
            async for text in jobs.tail(job_id):
                write(text[max(shown - seen, 0) :])
                seen, broken_at = seen + len(text), float("inf")
                shown = max(shown, seen)
            job = find(jobs, job_id)
            broken_at = float("inf")
            if not job.under_way:
                write(jobs.log(job_id)[shown:])
                return job
        except Unreachable:
            broken_at = min(broken_at, clock())
            if clock() - broken_at > _SILENT_S:
                raise
        await asyncio.sleep(_LOOK_EVERY_S)


async def stop(jobs: Jobs, name: str, patience_s: float, clock: Callable[[], float] = time.monotonic) -> Job:
    """Ask a run to write a checkpoint and end; returns its job when it has ended, or after `patience_s`."""
    job = find(jobs, name)
    if job.under_way:
        jobs.stop(job.id)
    deadline = clock() + patience_s
    while job.under_way and clock() < deadline:
        await asyncio.sleep(_LOOK_EVERY_S)
        job = find(jobs, job.id)
    return job
