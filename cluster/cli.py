"""The command `rloop`. Parses and prints; the work is elsewhere and imported when it is needed."""

import os
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster import jobs_cli
from cluster.arguments import Name, Overrides, Recipe, Resume, named_run
from cluster.exits import MEANING, Exit
from cluster.jobs import Unreachable
from cluster.settings import Refused, in_cluster, load

_CODES = "\n".join(f"  {code.value:>3}  {meaning}" for code, meaning in MEANING.items())
_EPILOG = f"""
Examples:

\b
  rloop train recipes/demo.yaml
  rloop train recipes/gsm8k.yaml data.path=train.jsonl model.path=models/Qwen3-0.6B
  rloop train recipes/demo.yaml schedule.iterations=4 --name longer --dry-run
  rloop resume runs/demo
  rloop submit recipes/demo.yaml --address http://127.0.0.1:8265
  RLOOP_ROLLOUT__GROUP_SIZE=16 rloop config show recipes/demo.yaml

Values come from the recipe, then RLOOP_SECTION__KEY variables, then section.key=value; later wins.

Exit codes:

\b
{_CODES}
"""

app = typer.Typer(
    name="rloop",
    help="Reinforcement learning for language models: RL phases, expert sets, RFT, bounded asynchrony.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Show run configurations.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app, name="config")
data_app = typer.Typer(help="Look at the data of a run.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, start nothing.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rloop {version('rloop')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Reinforcement learning for language models: RL phases, expert sets, RFT, bounded asynchrony."""


@app.command(epilog="Example:  rloop train recipes/demo.yaml schedule.iterations=4 --name longer")
def train(
    recipe: Recipe, overrides: Overrides = None, name: Name = None, resume: Resume = False, dry_run: DryRun = False
) -> None:
    """Run a recipe from start to end, with a live view."""
    from cluster import driver
    from cluster.rundir import changed, saved_config

    config = named_run(recipe, overrides, name)
    if (
        resume
        and (config.run_dir / "config.yaml").exists()
        and (problems := changed(saved_config(config.run_dir, []), config))
    ):
        raise Refused(problems)
    raise typer.Exit(driver.run(config, config.run_dir, Console(), resume, dry_run))


@app.command(epilog="Example:  rloop resume runs/demo schedule.iterations=6")
def resume(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of the run, e.g. runs/demo.")],
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Go on with a run where its last checkpoint stands. What it computes must not change; its length may."""
    from cluster import driver
    from cluster.rundir import saved_config

    config = saved_config(run_dir, [*in_cluster(os.environ), *(overrides or [])])
    raise typer.Exit(driver.run(config, run_dir, Console(), True, dry_run))


@app.command(epilog="Example:  rloop plan recipes/gsm8k.yaml recipes/gpu.yaml --cluster cluster.yaml --gpu-gib 80")
def plan(
    recipe: Recipe,
    overrides: Overrides = None,
    cluster: Annotated[
        Path | None,
        typer.Option(
            metavar="YAML",
            help="Ray cluster YAML or KubeRay manifest. [default: this machine, or the cluster at cluster.ray_address]",
        ),
    ] = None,
    gpu_gib: Annotated[
        float | None, typer.Option(min=1, help="Memory of a GPU in GiB: says what would not fit.")
    ] = None,
) -> None:
    """Who would run where, and the memory each takes. Looks at no data, starts nothing."""
    from cluster.plan import show_plan

    raise typer.Exit(show_plan(load(recipe, overrides or [], os.environ), cluster, gpu_gib, Console()))


@app.command("eval", epilog="Example:  rloop eval runs/demo/checkpoints/theta-2/hf recipes/demo.yaml eval.samples=64")
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Hugging Face model directory.")],
    recipe: Recipe,
    overrides: Overrides = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all metrics and counts per problem here.")
    ] = None,
) -> None:
    """What a model directory makes of a recipe's held-out sets: pass@k, maj@k, worst@k, with intervals."""
    from cluster import driver

    config = load(recipe, overrides or [], os.environ)
    raise typer.Exit(driver.evaluate(config, checkpoint, Console(), json_file))


@app.command(epilog="Example:  rloop audit runs/demo --checkpoint theta-1")
def audit(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of the run, e.g. runs/demo.")],
    sample: Annotated[
        str | None, typer.Option("--sample", metavar="PROMPT_ID[/INDEX]", help="What became of this prompt's answers.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="NAME|VERSION", help="What these weights were trained on.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the balance here.")] = None,
) -> None:
    """Where every answer of a run went; exit code 1 when the sums do not close. Reads only, also while it runs."""
    from cluster.audit import show_balance
    from cluster.provenance import show_checkpoint, show_sample

    if (sample is not None) + (checkpoint is not None) + (json_file is not None) > 1:
        raise Refused(["--sample, --checkpoint and --json are different questions; ask one at a time"])
    console = Console()
    if sample is not None:
        raise typer.Exit(show_sample(run_dir, sample, console))
    if checkpoint is not None:
        raise typer.Exit(show_checkpoint(run_dir, checkpoint, console))
    raise typer.Exit(show_balance(run_dir, console, json_file))


@app.command(epilog="Example:  rloop experts runs/demo --iteration 1 --max-per-prompt 4 --out hard.jsonl")
def experts(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of the run, e.g. runs/demo.")],
    iteration: Annotated[
        int | None, typer.Option(min=1, help="Whose set: 1 is the first, as everywhere on the screen. Default: newest.")
    ] = None,
    tau_hard: Annotated[
        float | None, typer.Option(help="Instead of schedule.tau_hard: problems solved at most this often.")
    ] = None,
    max_per_prompt: Annotated[
        int | None, typer.Option(min=1, help="Instead of schedule.max_per_prompt: answers per problem at most.")
    ] = None,
    last_steps: Annotated[
        int | None, typer.Option(min=0, help="Instead of the schedule's: the last so many RL steps alone; 0: all.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Export: .parquet has tokens and text, .jsonl chat messages.")
    ] = None,
) -> None:
    """Which answers of an RL phase are its expert set, and why the others are not. Reads only, also while it runs."""
    from cluster.experts import show_experts

    raise typer.Exit(show_experts(run_dir, Console(), iteration, tau_hard, max_per_prompt, last_steps, out))


@data_app.command("inspect", epilog="Example:  rloop data inspect recipes/gsm8k.yaml data.path=train.jsonl")
def data_inspect(
    recipe: Recipe,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option("--rows", min=0, help="Prompts to show of each set.")] = 2,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all of it here, every bad row included.")
    ] = None,
) -> None:
    """What a run makes of its data: columns, token lengths, prompts, verdicts on gold answers. Starts nothing."""
    from cluster.data_inspect import inspect

    raise typer.Exit(inspect(load(recipe, overrides or [], os.environ), rows, json_file, Console()))


@app.command(epilog="Example:  rloop verify answers.jsonl --verifier math --response completion --out verdicts.jsonl")
def verify(
    data: Annotated[
        Path | None, typer.Argument(metavar="[DATA]", help="File, directory or hf:OWNER/NAME, as data.path.")
    ] = None,
    verifier: Annotated[
        str | None,
        typer.Option(help="Built-in, or 'package.module:name'. [default: what column 'verifier' says, else math]"),
    ] = None,
    response: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Judge what this column holds. Else: gold answers and traps.")
    ] = None,
    gold: Annotated[str | None, typer.Option(metavar="FIELD", help="Column of responses that must be right.")] = None,
    question: Annotated[str | None, typer.Option(metavar="FIELD", help="Column of the problem.")] = None,
    reference: Annotated[str | None, typer.Option(metavar="FIELD", help="Column of the reference.")] = None,
    row_id: Annotated[str | None, typer.Option("--id", metavar="FIELD", help="Column of the id.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of the verifier, as under verifier.options.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN_DIR", help="Instead of DATA: judge a run's answers anew.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Responses judged at a time.")] = 2,
    timeout_s: Annotated[
        float | None, typer.Option(min=0.01, help="Seconds a response may take. [default: the verifier's own]")
    ] = None,
    recheck: Annotated[float, typer.Option(min=0, max=1, help="Share of the responses that are judged twice.")] = 0.02,
    limit: Annotated[
        int | None,
        typer.Option(min=0, help="Rows at most; of a run, answers. [default: all; of a run 10000, 0 is all]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="A JSON line per response.")] = None,
) -> None:
    """Can these rewards be trusted? Judges given responses, or tries a verifier with gold answers and traps."""
    from cluster import rescore
    from cluster import verify as verifying
    from rollout.config import SetConfig

    if (data is None) == (run is None):
        raise Refused(["name either DATA or --run RUN_DIR"])
    console, settings = Console(), verifying.VerifyOptions(processes, recheck, out)
    if run is not None:
        spec = verifying.spec_of(verifier, option or [], timeout_s) if verifier else None
        raise typer.Exit(rescore.rescore(run, spec, settings, 10_000 if limit is None else limit, console))
    assert data is not None
    keys = {"question_key": question, "answer_key": reference, "id_key": row_id, "response_key": response or gold}
    told = {key: name for key, name in keys.items() if name} | ({"verifier_key": ""} if verifier else {})
    asked = SetConfig.model_validate({"path": data} | told)
    judge = verifying.verify_given if response else verifying.verify_gold
    spec = verifying.spec_of(verifier or "math", option or [], timeout_s)
    raise typer.Exit(judge(asked, spec, settings, limit or None, console))


@config_app.command("show", epilog="Example:  rloop config show recipes/demo.yaml rollout.group_size=16 > mine.yaml")
def config_show(recipe: Recipe, overrides: Overrides = None) -> None:
    """Print the resolved run as YAML, each field with its help."""
    from cluster.fields import as_yaml

    typer.echo(as_yaml(load(recipe, overrides or [], os.environ)), nl=False)


@config_app.command("fields")
def config_fields() -> None:
    """List every field: key, type, bound, default, help."""
    from cluster.fields import as_table

    typer.echo(as_table())


@app.command()
def doctor() -> None:
    """Check whether this environment can run RLoop, with remedies."""
    from cluster.doctor import examine, show

    findings = examine()
    show(findings, Console())
    raise typer.Exit(Exit.UNFIT if any(f.status == "FAIL" for f in findings) else Exit.DONE)


jobs_cli.register(app)


def main() -> None:
    """Entry point of the console script."""
    # Plug-ins of the user's lie in the current directory; last, so that nothing there shadows what is installed.
    sys.path.append(str(Path.cwd()))
    sys.exit(guarded(app))


def guarded(command: Callable[[], None]) -> int:
    """Run a command; a user's mistake ends with sentences and code 2, ours with a traceback and code 1."""
    try:
        command()
    except Refused as refused:
        count = len(refused.problems)
        print(f"rloop: refused, {count} problem{'s' * (count > 1)}:", file=sys.stderr)
        print(*(f"  * {problem}" for problem in refused.problems), sep="\n", file=sys.stderr)
        return Exit.REFUSED
    except Unreachable as error:
        print(f"rloop: {error}; what was submitted goes on, ask again later", file=sys.stderr)
        return Exit.FAILED
    except KeyboardInterrupt:
        print("rloop: interrupted", file=sys.stderr)
        return Exit.INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.DONE if end.code is None else Exit.FAILED
    except Exception:
        traceback.print_exc()
        print("rloop: failed; if a run was started, its logs/ directory says more", file=sys.stderr)
        return Exit.FAILED
    return Exit.DONE
