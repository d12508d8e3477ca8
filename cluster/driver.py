"""A command line's way through a run: preflight, run directory, launch, live view, closing report.

Holds no state of the run. What happens in the cluster is `cluster.launch`; this decides what a person sees.
"""

import asyncio
import logging
import os
import shutil
from functools import partial
from pathlib import Path

from rich.console import Console

from actors.manifest import Manifest
from actors.records import RunStatus
from cluster import evaluation, preflight, results
from cluster.config import RunConfig
from cluster.exits import Exit
from cluster.jobs import killed_early
from cluster.machine import Machine
from cluster.rundir import RunDir
from cluster.settings import Refused
from cluster.sinks import SinkPlace, following, make_sink
from cluster.view import LiveView
from rollout.storage import LocalDisk

logger = logging.getLogger(__name__)

_EXIT = {"finished": Exit.DONE, "interrupted": Exit.INTERRUPTED}


def run(config: RunConfig, run_dir: Path, console: Console, resume: bool, dry_run: bool) -> Exit:
    """Check, then train with a live view, then report. A dry run ends after the checks."""
    plan = preflight.check(config, run_dir, Machine.here(), resume)
    console.print(f"rloop · {run_dir.name}\n{plan}", highlight=False, soft_wrap=True, markup=False)
    if resume:
        console.print(f"  {'goes on':<14} {_where(run_dir)}", highlight=False, soft_wrap=True, markup=False)
    if sentence := killed_early(config, os.environ):
        console.print(f"  {'note':<14} {sentence}", highlight=False, soft_wrap=True, markup=False)
    if dry_run:
        console.print("Every check passed; nothing was started.")
        return Exit.DONE
    directory = RunDir(run_dir)
    if not resume:
        directory.create(config)
    _log_to(directory.logs / "driver.log")
    try:
        with directory.claim():
            if resume:
                directory.record(config)
            status = _launch(config, directory, console)
    except Exception as error:
        if isinstance(error, Refused) and not resume:
            shutil.rmtree(run_dir)  # refused after all (a cluster that is too small): nothing is left behind
        elif not isinstance(error, Refused):
            logger.exception("the run failed")
            console.print(f"Logs: {directory.logs}", style="red", markup=False)
        raise
    if status.evals:
        directory.results.write_text(results.markdown(status.evals) + "\n", encoding="utf-8")
    results.report(status, directory, config.eval.ranked_by, console)
    if status.state not in _EXIT:
        console.print(f"\nThe run failed: {status.message}\nLogs: {directory.logs}", style="red", markup=False)
    return _EXIT.get(status.state, Exit.FAILED)


def _where(run_dir: Path) -> str:
    """Where a run stands that is resumed."""
    manifest = Manifest.load(LocalDisk(run_dir))
    if manifest is None:
        return "from the beginning: nothing is committed yet"
    if phase := manifest.phase:
        return f"in iteration {phase.iteration + 1}, {phase.kind}, after step {manifest.step} of {manifest.steps}"
    return f"after {manifest.done[-1].title}" if manifest.done else "after the evaluation of the base policy"


def _launch(config: RunConfig, directory: RunDir, console: Console) -> RunStatus:
    place = SinkPlace(directory.root, config.cluster.name, config.flat(), config.cluster.project)
    makers = {name: partial(make_sink, name, place) for name in config.cluster.sinks}
    with following(makers, directory.root) as troubles:
        status = _run_in_view(config, directory, console)
    for trouble in troubles:
        console.print(trouble, style="yellow", markup=False, soft_wrap=True)
    return status


def _run_in_view(config: RunConfig, directory: RunDir, console: Console) -> RunStatus:
    from cluster import launch

    with LiveView(directory.root.name, console) as view:

        def show(status: RunStatus) -> None:
            view.show(status)
            directory.write_status(status)

        status = asyncio.run(launch.train(config, directory.root, show))
    directory.write_status(status)
    return status


def evaluate(config: RunConfig, checkpoint: Path, console: Console, json_file: Path | None) -> Exit:
    """What a model directory makes of the held-out problems: printed as a table, and written if a file is named."""
    from cluster import launch

    preflight.check_evaluation(config, checkpoint, Machine.here(), json_file)
    with LiveView(checkpoint.name, console) as view:
        row, counts = asyncio.run(launch.evaluate(config, checkpoint, view.show))
    if json_file:
        evaluation.write(json_file, config, row, counts)
    console.print(evaluation.table(row))
    return Exit.DONE


def _log_to(path: Path) -> None:
    """What the driver's own modules say goes to a file; the terminal belongs to the view."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
