"""Does RLoop work on this machine? Runs each part in a process of its own, cheap ones first, and prints one table.

    python -m deploy.gpu_check [--device cpu] [--only PART,PART] [--json FILE]

The exit code is 0 when nothing failed. A part that cannot run here is skipped, and the table says why.
"""

import argparse
import importlib
import os
import pickle
import shutil
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from deploy.gpu_check.outcomes import Outcome, exit_code, table, verdict, write_json
from deploy.gpu_check.own_process import answer, run_part
from deploy.gpu_check.place import Place, Skipped, Wrong
from rollout.engine_env import ENGINE_ENV, GPU_ENGINE_ENV, SHARED_GPU_ENGINE_ENV


@dataclass(frozen=True, slots=True)
class Part:
    """One line of the table."""

    name: str
    module: str
    """Of this package; its function is called like the part."""
    deadline_s: float
    """Of a slow machine whose caches are cold."""


PARTS = (
    Part("device", "device", 120),
    Part("attention", "training", 300),
    Part("learner", "training", 300),
    Part("engine", "generation", 900),
    Part("transfer", "generation", 900),
    Part("ipc", "generation", 900),
    Part("nccl", "generation", 900),
    Part("loop", "whole_run", 1800),
)


def main() -> int:
    """Check, and say it."""
    options = _options()
    if options.part:
        return _be(options.part, Place(options.device, options.answer.parent), options.answer)
    folder = Path(tempfile.mkdtemp(prefix="rloop-check-"))
    console, code = Console(), 1
    try:
        code = check(options, folder, console)
    finally:
        if code:
            console.print(f"Logs, model and run: {folder}", highlight=False, soft_wrap=True)
        else:
            shutil.rmtree(folder)
    return code


def check(options: argparse.Namespace, folder: Path, console: Console) -> int:
    """Every part that is asked for, told as it goes, and then the table."""
    outcomes: list[Outcome] = []
    for part in PARTS:
        if options.only and part.name not in options.only:
            continue
        console.print(f"{part.name} …", end=" ", highlight=False)
        command = [sys.executable, "-m", "deploy.gpu_check", "--device", options.device]
        environ = _environ(options.device, part.name)
        outcomes.append(run_part(part.name, [*command, "--part", part.name], part.deadline_s, folder, environ))
        console.print(f"{outcomes[-1].status}, {outcomes[-1].seconds:.0f} s", highlight=False)
    console.print(table(options.device, outcomes))
    console.print(verdict(outcomes), highlight=False)
    if options.json:
        write_json(options.json, options.device, outcomes)
    return exit_code(outcomes)


def _environ(device: str, part: str) -> dict[str, str]:
    """As a run gives it to its actors; a whole run gives it to its own."""
    if part == "loop":
        return dict(os.environ)
    if device == "cpu":
        return {**os.environ, **ENGINE_ENV}
    return {**os.environ, **(SHARED_GPU_ENGINE_ENV if part == "ipc" else GPU_ENGINE_ENV)}


def _be(name: str, place: Place, said: Path) -> int:
    """Be the process of one part."""
    pickle.load(sys.stdin.buffer)  # the leash: from now on this process dies with the check
    part = next(part for part in PARTS if part.name == name)
    try:
        function = getattr(importlib.import_module(f"deploy.gpu_check.{part.module}"), name)
        answer(said, "pass", function(place))
    except Skipped as why:
        answer(said, "skipped", str(why))
    except Wrong as what:
        answer(said, "FAIL", str(what))
    except Exception as error:
        traceback.print_exc()
        answer(said, "FAIL", f"{type(error).__name__}: {error}"[:500])
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("gpu_check.sh", description="Does RLoop work on this machine?")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: the same parts without a GPU")
    names = ", ".join(part.name for part in PARTS)
    parser.add_argument("--only", type=_names, metavar="PART,PART", help=f"some of {names}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there as well")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("answer", type=Path, nargs="?", help=argparse.SUPPRESS)
    return parser.parse_args()


def _names(text: str) -> list[str]:
    asked = text.split(",")
    if unknown := set(asked) - {part.name for part in PARTS}:
        raise argparse.ArgumentTypeError(f"no part is called {', '.join(sorted(unknown))}")
    return asked


if __name__ == "__main__":
    sys.exit(main())
