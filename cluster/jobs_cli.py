"""The commands about runs in a Ray cluster: `rloop submit`, `status`, `logs`, `stop`, `scale`, and `token`."""

import asyncio
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from cluster.arguments import Name, Overrides, Recipe, Resume, named_run
from cluster.exits import Exit
from cluster.invocation import installed, rloop
from cluster.jobs import DEFAULT_ADDRESS, Job, Order, find, follow, run_command
from cluster.jobs import stop as stop_job
from cluster.jobs import submit as submit_job

if TYPE_CHECKING:
    from cluster.job_client import RayJobs

_WIDE = 250
Address = Annotated[
    str,
    typer.Option(envvar="RAY_API_SERVER_ADDRESS", metavar="URL", help="The cluster's dashboard."),
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run, or of its job.")]


def submit(
    recipe: Recipe,
    overrides: Overrides = None,
    address: Address = DEFAULT_ADDRESS,
    name: Name = None,
    resume: Resume = False,
    also: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="PATH", help="Take this along too; modules that the recipe names go anyway."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait; print how to come back.")] = False,
) -> None:
    """Run a recipe as a job of a Ray cluster, and show what it prints. Ctrl-C detaches; the run goes on."""
    config = named_run(recipe, overrides, name)
    jobs = _connect(address, warn=True)
    job = submit_job(jobs, Order(config, installed(), Path.cwd(), also or (), resume))
    print(f"{config.cluster.name} is job {job.id}; its run directory is {job.run_dir}", file=sys.stderr)
    if detach:
        _say_how_to_come_back(job)
        raise typer.Exit
    raise typer.Exit(_watch(jobs, job))


def status(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="One run. [default: all]")] = None,
    address: Address = DEFAULT_ADDRESS,
) -> None:
    """The runs that were submitted to a cluster: since when, how they are, how they ended."""
    jobs = _connect(address)
    shown = [find(jobs, run)] if run else sorted((j for j in jobs.all() if j.run), key=lambda job: job.began_at)
    table = Table(box=box.SIMPLE)
    for column in ("run", "job", "state", "took", "exit", "run directory"):
        table.add_column(column, overflow="fold")
    for job in shown:
        took = timedelta(seconds=round((job.ended_at or time.time()) - job.began_at))
        code = "" if job.under_way else str(int(job.exit))
        table.add_row(job.run or "", job.id, job.state.lower(), str(took), code, job.run_dir)
    console = Console() if sys.stdout.isatty() else Console(width=_WIDE)  # nothing is cut off where nobody looks
    console.print(table if shown else "No run was submitted to this cluster.")
    if run:
        console.print(_last_line(jobs.log(shown[0].id)), highlight=False, markup=False, soft_wrap=True)


def logs(
    run: Run,
    address: Address = DEFAULT_ADDRESS,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends; with its exit code.")] = False,
) -> None:
    """What a run prints. The logs of its processes are in its run directory."""
    jobs = _connect(address)
    job = find(jobs, run)
    if follow:
        raise typer.Exit(_watch(jobs, job))
    sys.stdout.write(jobs.log(job.id))


def stop(
    run: Run,
    address: Address = DEFAULT_ADDRESS,
    wait_s: Annotated[float, typer.Option("--wait", metavar="SECONDS", help="Wait so long for its end.")] = 120.0,
) -> None:
    """Ask a run to write a checkpoint and to end; `rloop submit --resume` goes on with it."""
    jobs = _connect(address)
    job = find(jobs, run)
    if not job.under_way:
        print(f"{job.id} had ended already: {job.state.lower()}, exit code {int(job.exit)}", file=sys.stderr)
        return
    print(f"{run} is asked to stop; it writes a checkpoint first", file=sys.stderr)
    job = asyncio.run(stop_job(jobs, run, wait_s))
    if job.under_way:
        print(f"{job.id} has not ended after {wait_s:g} s; it is killed when its time is over", file=sys.stderr)
        raise typer.Exit(Exit.FAILED)
    again = f"; {rloop()} submit RECIPE --name {job.run} --resume goes on with it" if job.run else ""
    print(f"{job.id}: {job.state.lower()}{again}", file=sys.stderr)


def scale(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, or name of a run that was submitted.")],
    wanted: Annotated[list[str], typer.Argument(metavar="ROLE=NUMBER...", help="rollout=8, verifiers=2.")],
    address: Address = DEFAULT_ADDRESS,
    wait_s: Annotated[float, typer.Option("--wait", metavar="SECONDS", help="Wait so long for it.")] = 300.0,
) -> None:
    """Give a run under way another number of rollout workers or verifier pools. Who leaves loses no token."""
    from cluster import scaling

    numbers, run_dir = scaling.parse(wanted), Path(run)
    if not (run_dir / "config.yaml").exists():
        jobs = _connect(address)
        job = find(jobs, run)
        run_dir = Path(job.run_dir)
        if not jobs.is_here:  # the directory is there, so the command goes there too
            command = ["scale", str(run_dir), *wanted, "--wait", f"{wait_s:g}"]
            raise typer.Exit(_watch(jobs, run_command(jobs, "scale", command, installed())))
    scaling.ask(run_dir, numbers)
    try:
        there = scaling.wait(run_dir, numbers, wait_s)
    except KeyboardInterrupt:
        print("\ndetached; the run keeps asking for them", file=sys.stderr)
        return
    if not there:
        raise typer.Exit(Exit.FAILED)


def token() -> None:
    """Make the token that guards the clusters of this user (once, before `ray start`); Ray's commands find it."""
    from actors.ray_settings import make_token, token_file

    file = token_file(os.environ)
    made = make_token(file)
    print(f"{file}: {'made' if made else 'was there'}; only you can read it. Every node of a cluster needs the same.")


def register(app: typer.Typer) -> None:
    """Add the commands to `rloop`."""
    for command, example in (
        (submit, "rloop submit recipes/demo.yaml schedule.iterations=4 --name longer"),
        (status, "rloop status demo"),
        (logs, "rloop logs demo --follow"),
        (stop, "rloop stop demo"),
        (scale, "rloop scale demo rollout=2"),
        (token, "rloop token && ray start --head"),
    ):
        app.command(epilog=f"Example:  {example}")(command)


def _connect(address: str, warn: bool = False) -> "RayJobs":
    from actors.ray_settings import use_token_if_there

    use_token_if_there()  # Ray reads its authentication mode when it is imported
    from cluster.job_client import RayJobs

    jobs = RayJobs(address)
    if warn and (sentence := jobs.warning()):
        print(sentence, file=sys.stderr)
    return jobs


def _watch(jobs: "RayJobs", job: Job) -> int:
    """Show what a job prints until it ends; its exit code. Ctrl-C leaves it alone."""

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        ended = asyncio.run(follow(jobs, job.id, write))
    except KeyboardInterrupt:
        print("\ndetached", file=sys.stderr)
        _say_how_to_come_back(job)
        return Exit.DONE
    if ended.exit and ended.exit_code is None:
        print(f"{job.id}: {ended.state.lower()}. {ended.message}", file=sys.stderr)
    return ended.exit


def _say_how_to_come_back(job: Job) -> None:
    name, command = job.run or job.id, rloop()
    print(
        f"{name} goes on. {command} logs {name} --follow shows it again, {command} status {name} says how it is, "
        f"{command} stop {name} ends it with a checkpoint",
        file=sys.stderr,
    )


def _last_line(log: str) -> str:
    return next((line for line in reversed(log.splitlines()) if line.strip()), "")
