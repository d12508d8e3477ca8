"""`rloop audit RUN --checkpoint NAME` and `--sample ID`: what made these weights, what became of this prompt.

Draws; the journal is read by `rollout.provenance`. Names of weights and their order come from the manifest.
"""

from collections.abc import Mapping
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors.manifest import Manifest
from cluster.audit import manifest_of, opened
from cluster.exits import Exit
from cluster.settings import Refused
from rollout.events import Trained, replay
from rollout.ledger import IllegalTransition
from rollout.provenance import Answer, Lineage, Moment, contribution, life
from rollout.storage import LocalDisk
from trainer.phases import Phase


def show_sample(run_dir: Path, name: str, console: Console) -> Exit:
    """Print the life of `PROMPT_ID` or `PROMPT_ID/INDEX`: events in order, then its answers.

    Raises:
        Refused: When the journal has no such prompt or answer.
    """
    _, journal = opened(run_dir)
    moments, answers = _life(journal, name)
    prompt_id, _, index = name.rpartition("/")
    if not moments and index.isdigit():
        moments, everyones = _life(journal, prompt_id)
        answers = [answer for answer in everyones if answer.sample_index == int(index)]
        moments = [moment for moment in moments if moment.samples is None or int(index) in moment.samples]
        if everyones and not answers:
            raise Refused([f"{journal} has no answer {index} to {prompt_id!r}; leave out the index to see all it has"])
    if not moments:
        raise Refused([f"{journal} has no prompt {name!r}; name one as PROMPT_ID or PROMPT_ID/INDEX"])
    console.print(_moments(moments))
    if answers:
        console.print(_answers(answers))
    else:
        console.print("No answer to it has been finished.")
    return Exit.DONE


def show_checkpoint(run_dir: Path, name: str, console: Console) -> Exit:
    """Print what weights were trained on, a row per phase from the first: by name, or by policy version of an RL phase.

    Raises:
        Refused: When the run has no such weights.
    """
    config, journal = opened(run_dir)
    manifest, lineage = manifest_of(run_dir), Lineage(replay(journal))
    drawn = _table(f"What made {name}", "phase", "from", "to", "trained on")
    for phase, limit in _ancestry(manifest, lineage, name):
        if phase.kind == "rl":
            told = _rl(journal, lineage.steps.get(phase.iteration, [])[:limit], dict(manifest.restored))
        elif phase.kind == "rft":
            unchanged = manifest.weights[phase.produces] == manifest.weights[phase.init_from]
            told = _rft(run_dir / "experts" / f"iteration-{phase.iteration}.parquet", unchanged)
        elif phase.kind == "merge":
            told = "nothing: the average of " + ", ".join(f"{share:g} × {one}" for one, share in phase.average)
        else:
            told = f"{config.schedule.warmup_demos:,} demonstrations"
        drawn.add_row(phase.kind, phase.init_from, phase.produces, told)
    if not drawn.row_count:
        drawn.add_row("-", "-", name, "nothing: the model that the run was given")
    console.print(drawn)
    return Exit.DONE


def _ancestry(manifest: Manifest, lineage: Lineage, name: str) -> list[tuple[Phase, int | None]]:
    """The phases behind some weights, oldest first, each with the number of its steps that count (None for all)."""
    phases = [*manifest.done, *([manifest.phase] if manifest.phase else [])]
    made_by = {phase.produces: phase for phase in manifest.done if phase.produces != phase.init_from}
    chain: list[tuple[Phase, int | None]] = []
    if name.isdigit():
        if (found := lineage.find(int(name))) is None:
            raise Refused([f"version {name} was made by no RL step; name the weights instead: {_known(manifest)}"])
        iteration, steps = found
        latest = manifest.done[-1].produces if manifest.done else "theta-0"  # a phase before its first checkpoint
        began = (phase.init_from for phase in phases if phase.kind == "rl" and phase.iteration == iteration)
        start = next(began, latest)
        if steps:
            chain.append((Phase("rl", iteration, start, f"version {name}"), steps))
        name = start
    elif name not in manifest.weights:
        raise Refused(
            [f"this run has no weights {name!r}; it has {_known(manifest)}, and the versions of its RL steps"]
        )
    while name in made_by:
        chain.append((made_by[name], None))
        name = made_by[name].init_from
    return chain[::-1]


def _known(manifest: Manifest) -> str:
    return ", ".join(manifest.weights) or "none committed yet"


def _rl(journal: LocalDisk, steps: list[Trained], restored: Mapping[int, int]) -> str:
    kept = _left(steps, restored)
    try:
        made = contribution(journal, kept)
    except IllegalTransition as illegal:
        raise _broken(journal, illegal) from None
    versions = f" (versions {steps[0].version}-{steps[-1].version})" if steps else ""
    undone = f"; {len(steps) - len(kept)} rolled back" if len(kept) < len(steps) else ""
    return (
        f"{made.steps} steps{versions}, {made.groups:,} groups of {made.prompts:,} prompts, "
        f"{made.samples:,} answers, {made.tokens:,} tokens{undone}"
    )


def _left(steps: list[Trained], restored: Mapping[int, int]) -> list[Trained]:
    """The steps that are left in the weights; `restored` is the manifest's."""
    kept: list[Trained] = []
    for step in steps:
        again = restored.get(step.version)
        kept = [*kept, step] if again is None else [earlier for earlier in kept if earlier.version <= again]
    return kept


def _rft(experts: Path, unchanged: bool) -> str:
    if unchanged:
        return "nothing: too few expert answers"
    table = pq.read_table(experts, columns=["prompt_id", "response_ids", "step"])
    prompts = len(table["prompt_id"].unique())
    tokens = pc.sum(pc.list_value_length(table["response_ids"])).as_py() or 0
    counts = {row["values"]: row["counts"] for row in table["step"].value_counts().to_pylist()}
    per_step = " ".join(f"{step}:{counts[step]}" for step in sorted(counts))
    return (
        f"{len(table):,} expert answers to {prompts:,} prompts, {tokens:,} tokens; answers by RL step done: {per_step}"
    )


def _life(journal: LocalDisk, prompt_id: str) -> tuple[list[Moment], list[Answer]]:
    try:
        return life(journal, prompt_id)
    except IllegalTransition as illegal:
        raise _broken(journal, illegal) from None


def _broken(journal: LocalDisk, illegal: IllegalTransition) -> Refused:
    return Refused([f"{journal}: {illegal}; run `rloop audit` without options, it lists what is wrong"])


def _moments(moments: list[Moment]) -> Table:
    drawn = _table(f"Prompt {moments[0].key.prompt_id}", "event", "group", "phase", "what", "note")
    for m in moments:
        drawn.add_row(str(m.number), f"{m.key.purpose} epoch {m.key.epoch}", m.phase, m.what, Text(m.note))
    return drawn


def _answers(answers: list[Answer]) -> Table:
    columns = ("event", "index", "verdict", "reward", "tokens", "versions", "end", "feedback")
    drawn = _table("Its answers, by the event that delivered them", *columns)
    for a in answers:
        reward = "-" if a.reward is None else f"{a.reward:g}"
        versions = str(a.oldest) if a.oldest == a.newest else f"{a.oldest}-{a.newest}"
        cells = (str(a.number), str(a.sample_index), a.verdict, reward, str(a.tokens), versions, a.finish_reason)
        drawn.add_row(*cells, Text(a.feedback))
    return drawn


def _table(title: str, *columns: str) -> Table:
    """Columns fold; names in the title may hold brackets, so it is no markup."""
    drawn = Table(title=Text(title, style="dim"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        drawn.add_column(column, overflow="fold")
    return drawn
